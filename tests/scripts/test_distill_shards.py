"""Shards and the text made of them: every sentence in its place, damage seen, empty hypotheses counted."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from common import shards
from distilled_text import distil
from sacrebleu.metrics import BLEU

LINES = ["a b@@ c", "", "d", "<unk> e", "f f"]
FACTS = {"seconds": 1.0, "teacher": {"arch": "tiny", "updates": 7, "beam": 4, "lenpen": 1.0}}


@pytest.fixture
def written(tmp_path: Path) -> list:
    """LINES in two shards."""
    (tmp_path / "shards").mkdir()
    found = shards.all_shards(tmp_path / "shards", 2, len(LINES))
    for shard in found:
        shard.write([LINES[line] for line in shard.lines], FACTS)
    return found


@pytest.mark.parametrize(("count", "sentences"), [(1, 1), (3, 10), (7, 7), (20, 28998)])
def test_every_sentence_is_in_one_shard_in_order(count, sentences):
    found = shards.all_shards(Path(), count, sentences)
    assert [line for shard in found for line in shard.lines] == list(range(sentences))
    assert max(len(shard.lines) for shard in found) - min(len(shard.lines) for shard in found) <= 1


def test_more_shards_than_sentences_are_refused():
    with pytest.raises(Exception, match="SHARDS=4: more than the 3 sentences of the training set"):
        shards.all_shards(Path(), 4, 3)


def test_a_shard_stands_when_it_is_written_and_reads_back(written):
    assert [shard.fault() for shard in written] == [None, None]
    assert [line for shard in written for line in shard.read()[0]] == LINES
    assert not list(written[0].folder.glob("*.part"))


def test_a_shard_of_another_number_of_sentences_is_not_written(written):
    with pytest.raises(Exception, match="2 sentences in, 1 out"):
        written[0].write(["a"], FACTS)
    assert written[0].fault() is None


def truncate(shard) -> None:
    shard.text.write_bytes(shard.text.read_bytes()[:-3])


def alter(shard) -> None:
    shard.text.write_text(shard.text.read_text().replace("d", "x"))


def lose_the_stamp(shard) -> None:
    shard.stamp.unlink()


def halve_the_stamp(shard) -> None:
    shard.stamp.write_bytes(shard.stamp.read_bytes()[:20])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "2 sentences where 3 were decoded"),
        (alter, "its text differs from what was decoded"),
        (lose_the_stamp, "not decoded yet"),
        (halve_the_stamp, "0001-of-0002.json is damaged"),
    ],
)
def test_a_damaged_shard_does_not_stand_and_is_not_read(written, damage, message):
    damage(written[1])
    assert written[0].fault() is None
    assert written[1].fault() == message
    with pytest.raises(Exception, match=rf"0001-of-0002.txt: {message}; run distill.sh again"):
        written[1].read()


@pytest.fixture
def options(written: list, tmp_path: Path) -> Namespace:
    """What distilled_text.py needs for a corpus of which LINES are the translation."""
    (tmp_path / "bpe").mkdir()
    text = {"train": (["1", "2", "3", "4", "5"], ["a bc", "x", "d", "u e", "f"]), "valid": (["6"], ["g"]), "test": (["7"], ["h"])}
    for split, sides in text.items():
        for language, lines in zip(("en", "de"), sides, strict=True):
            (tmp_path / "bpe" / f"{split}.{language}").write_text("".join(line + "\n" for line in lines))
    train = {"lines_in": 6, "lines_out": 5, "dropped": {"empty": 0, "too_long": 0, "ratio": 1}, "en": {}, "de": {}}
    (tmp_path / "report.json").write_text(json.dumps({"train": train, "valid": {}, "test": {}}))
    (tmp_path / "settings.txt").write_text("SOURCE_LANG=en\nTARGET_LANG=de\n")
    folders = {"data": tmp_path, "shards_folder": tmp_path / "shards", "out": tmp_path / "out"}
    return Namespace(**folders, source_lang="en", target_lang="de", shards=2, teacher_checksum="abc")


def read(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


def test_hypotheses_stand_beside_their_sources_in_the_teachers_sub_words(options, capsys):
    distil(options)
    assert read(options.out / "bpe" / "train.en") == ["1", "3", "4", "5"]
    assert read(options.out / "bpe" / "train.de") == ["a b@@ c", "d", "<unk> e", "f f"]
    assert "5 sentences in, 4 out, dropped because empty hypothesis 1" in capsys.readouterr().out


def test_what_was_dropped_and_who_taught_is_reported(options):
    distil(options)
    train = json.loads((options.out / "report.json").read_text())["train"]
    assert (train["lines_in"], train["lines_out"]) == (6, 4)
    assert train["dropped"] == {"empty": 0, "too_long": 0, "ratio": 1, "empty_hypothesis": 1}
    assert (train["de"]["subwords"], train["de"]["unk"]) == (8, 1)
    assert train["teacher"]["updates"] == 7
    assert train["teacher"]["signature"].startswith("nrefs:1")
    settings = read(options.out / "settings.txt")
    assert settings[:2] == ["SOURCE_LANG=en", "TARGET_LANG=de"]
    assert {"DISTILLED=1", "TEACHER=tiny 7 updates", "sha256 teacher=abc", "BEAM=4"} < set(settings)


def test_the_teachers_bleu_is_of_whole_words_tokenised_as_they_were_prepared(options, written):
    """Of sub-words, with hypotheses and references exchanged, or tokenised once more, it is another one."""
    references = ["it &apos;s 3.5 small birds", "on the old roof to@@ day", "they sing", "one flew over the house", "the end ."]
    hypotheses = ["it &apos;s 3.5 s@@ mall birds", "on the old roof", "they sing a s@@ ong", "one flew o@@ ver it", "the end ."]
    (options.data / "bpe" / "train.de").write_text("".join(line + "\n" for line in references))
    for shard in written:
        shard.write([hypotheses[line] for line in shard.lines], FACTS)
    distil(options)
    teacher = json.loads((options.out / "report.json").read_text())["train"]["teacher"]
    whole = [[line.replace("@@ ", "") for line in lines] for lines in (hypotheses, references)]

    def bleu(translations, targets, tokenize="none"):
        return round(BLEU(tokenize=tokenize, force=True).corpus_score(translations, [targets]).score, 2)

    assert teacher["bleu_against_references"] == bleu(*whole)
    assert teacher["bleu_against_references"] not in (bleu(*reversed(whole)), bleu(hypotheses, references), bleu(*whole, "13a"))
    assert "tok:none" in teacher["signature"]


def test_validation_and_test_text_is_unchanged(options):
    distil(options)
    for name in ("valid.en", "valid.de", "test.en", "test.de"):
        assert (options.out / "bpe" / name).read_bytes() == (options.data / "bpe" / name).read_bytes()


def test_a_corpus_of_empty_hypotheses_is_refused(options, written):
    for shard in written:
        shard.write([""] * len(shard.lines), FACTS)
    with pytest.raises(Exception, match="all 5 hypotheses are empty; train the teacher for longer"):
        distil(options)


def test_shards_of_different_teachers_are_refused(options, written):
    written[1].write([LINES[line] for line in written[1].lines], {"teacher": {**FACTS["teacher"], "updates": 8}})
    with pytest.raises(Exception, match="0001-of-0002.txt: decoded by .*'updates': 8"):
        distil(options)


def test_a_lost_shard_is_refused(options, written):
    written[1].text.unlink()
    with pytest.raises(Exception, match="0001-of-0002.txt: not decoded yet"):
        distil(options)
