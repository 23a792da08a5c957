"""The generated corpus, through its command line and its grammar."""

from pathlib import Path

import generate_corpus as grammar
import pytest

from tests.scripts.commands import run

SCRIPT = "scripts/generate_corpus.py"


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("corpus")
    result = run(SCRIPT, out, "--pairs", "3000")
    assert result.returncode == 0, result.stderr
    return read(out)


def test_the_files_are_parallel_and_of_the_size_asked_for(corpus):
    lines = {name: text.count("\n") for name, text in corpus.items()}
    held_out = {f"{split}.{language}": 1000 for split in ("val", "test") for language in ("en", "de")}
    assert lines == {"train.en": 3000, "train.de": 3000, **held_out}


def test_no_sentence_of_val_or_test_is_in_train(corpus):
    for split in ("val", "test"):
        assert not set(corpus[f"{split}.en"].splitlines()) & set(corpus["train.en"].splitlines())


def test_the_seed_decides_the_corpus(tmp_path, corpus):
    for folder, seed in (("again", "1"), ("other", "2")):
        assert run(SCRIPT, tmp_path / folder, "--pairs", "3000", "--seed", seed).returncode == 0
    assert read(tmp_path / "again") == corpus
    assert read(tmp_path / "other")["train.en"] != corpus["train.en"]


def test_a_number_of_pairs_below_one_is_refused(tmp_path):
    result = run(SCRIPT, tmp_path / "out", "--pairs", "0")
    assert result.returncode != 0
    assert "--pairs 0" in result.stderr
    assert not (tmp_path / "out").exists()


def phrase(determiner: str, adjective: list[str] | None, noun: str, plural: bool = False) -> grammar.NounPhrase:
    """A noun phrase of the grammar, by its words."""
    determiners = {entry[0]: entry for entry in (grammar.PLURAL if plural else grammar.SINGULAR)}
    nouns = {entry[0]: entry for entry in grammar.table(grammar.BEINGS) + grammar.table(grammar.THINGS)}
    return grammar.NounPhrase(determiners[determiner], adjective, nouns[noun], plural)


OLD = ["old", "alt"]


@pytest.mark.parametrize(
    ("words", "case", "german"),
    [
        (("the", OLD, "man"), "acc", "den alten Mann"),
        (("a", OLD, "man"), "nom", "ein alter Mann"),
        (("a", OLD, "child"), "acc", "ein altes Kind"),
        (("this", OLD, "woman"), "dat", "dieser alten Frau"),
        (("every", None, "child"), "dat", "jedem Kind"),
        (("two", OLD, "man", True), "dat", "zwei alten Männern"),
        (("two", OLD, "man", True), "acc", "zwei alte Männer"),
        (("many", OLD, "woman", True), "dat", "vielen alten Frauen"),
        (("our", OLD, "dog", True), "nom", "unsere alten Hunde"),
        (("the", None, "radio", True), "dat", "den Radios"),
    ],
)
def test_articles_adjectives_and_nouns_agree(words, case, german):
    assert phrase(*words).german(case) == german


def test_the_verb_stands_where_german_wants_it():
    verbs = {entry[0]: entry for entry in grammar.table(grammar.VERBS["things"], "/")}
    dogs, ball = phrase("the", None, "dog", True), phrase("a", ["red", "rot"], "ball")
    present, perfect = (grammar.Clause(dogs, verbs["pick_up"], tense, ball) for tense in ("present", "perfect"))
    can = grammar.Clause(dogs, verbs["pick_up"], ["can", "kann", "können"], ball)
    assert present.german_main() == "die Hunde heben einen roten Ball auf"
    assert present.german_main("") == "heben die Hunde einen roten Ball auf"
    assert present.german_final() == "die Hunde einen roten Ball aufheben"
    assert perfect.german_main("heute") == "heute haben die Hunde einen roten Ball aufgehoben"
    assert perfect.german_final() == "die Hunde einen roten Ball aufgehoben haben"
    assert can.german_final() == "die Hunde einen roten Ball aufheben können"
    assert can.english_question() == "can the dogs pick up a red ball"
