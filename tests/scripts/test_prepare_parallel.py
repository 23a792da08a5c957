"""Preparing parallel text: what is made of it, what a second run does, what a kill or a full disk leaves."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.scripts.commands import held
from tests.scripts.parallel_corpus import SPLITS, Corpus, checksums

# Words of as many sub-words as characters, since no two of these stand together twice; only the first begins with YI[:2].
YI = "".join(map(chr, range(0xA000, 0xA48D)))
TOO_MANY = YI[:1023]
JUST_ENOUGH = YI[:-1023:-1]


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return Corpus(tmp_path / "raw", tmp_path / "out")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Corpus:
    """A corpus with everything in its training text that is dropped, and the oddest that is kept, prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    corpus = Corpus(folder / "raw", folder / "out")
    corpus.set_line("train", "en", 3, "")
    corpus.set_line("train", "de", 4, " \u00a0\t")
    corpus.set_line("train", "en", 5, "word " * 10_000)
    corpus.set_line("train", "de", 6, "x" * 5_000)
    corpus.set_line("train", "en", 7, "One word and many more than there are in its translation, far more.")
    corpus.set_line("train", "de", 7, "Ein")
    corpus.set_line("train", "en", 9, "Too many signs")
    corpus.set_line("train", "de", 9, TOO_MANY)
    corpus.set_line("train", "en", 10, JUST_ENOUGH)
    corpus.set_line("train", "de", 10, "So many signs")
    corpus.set_line("train", "en", 8, "A line\u2028in two\x85or\x0cthree\rparts.\r")
    corpus.set_line("valid", "de", 3, YI[:2])
    corpus.set_line("valid", "de", 2, 'Der Hund\u2028sieht ☃ und den "&".')
    corpus.set_line("test", "en", 2, "<s> </s>")
    corpus.set_line("test", "en", 1, "Known.\r")
    result = corpus.prepare()
    assert result.returncode == 0, result.stderr
    corpus.output = result.stdout
    return corpus


def test_training_lines_that_teach_nothing_are_dropped_and_counted(prepared):
    dropped = {"empty": 2, "too_long": 2, "ratio": 1, "too_many_subwords": 1}
    expected = {"lines_in": 60, "lines_out": 54, "dropped": dropped}
    train = prepared.report()["train"]
    assert {name: train[name] for name in expected} == expected
    assert "train: 60 lines in, 55 out, dropped because empty 2, too long 2, ratio 1" in prepared.output
    assert "train: 55 lines in, 54 out, dropped because too many sub-words 1" in prepared.output
    assert "train: 54 lines in, 54 sentences out" in prepared.output


def test_of_both_languages_the_pair_goes_that_has_more_sub_words_than_positions(prepared):
    for language, unwanted in (("en", "Too many signs"), ("de", TOO_MANY)):
        tokens, subwords = (
            (prepared.out / f"{folder}/train.{language}").read_text(encoding="utf-8").split("\n")[:-1]
            for folder in ("tokenised", "bpe")
        )
        tokens.remove(unwanted)
        assert [line.replace("@@ ", "") for line in subwords] == tokens
    assert " ".join(JUST_ENOUGH).replace(" ", "@@ ") in (prepared.out / "bpe/train.en").read_text(encoding="utf-8")


def test_what_only_dropped_pairs_have_is_unknown(prepared):
    examples = prepared.report()["valid"]["de"]["unk_examples"]
    assert {YI[0] + "@@", YI[1]} <= set(examples)


def test_validation_and_test_lose_no_sentence(prepared):
    for split, count in (("valid", 10), ("test", 10)):
        for language in ("en", "de"):
            for text in (f"ref.{split}", f"tokenised/{split}", f"bpe/{split}"):
                assert (prepared.out / f"{text}.{language}").read_bytes().count(b"\n") == count


def test_only_a_line_feed_ends_a_line(prepared):
    kept = (prepared.out / "tokenised/train.en").read_text(encoding="utf-8").splitlines()
    assert "A line in two or three parts ." in kept
    assert len(kept) == 55


def test_references_are_the_raw_text_one_line_a_sentence_under_any_reader(prepared):
    references = (prepared.out / "ref.valid.de").read_text(encoding="utf-8").splitlines()
    assert len(references) == 10
    assert references[1] == 'Der Hund sieht ☃ und den "&".'
    assert (prepared.out / "ref.test.en").read_text(encoding="utf-8").splitlines()[0] == "Known."


def test_control_symbols_in_raw_text_are_escaped(prepared):
    assert (prepared.out / "tokenised/test.en").read_text().split("\n")[1] == "&lt; s &gt; &lt; / s &gt;"


def test_a_literal_unk_in_tokenised_text_is_counted_as_unk(corpus):
    from fairseq.data import Dictionary, data_utils

    corpus.write("train", "en", [line + " <unk>" for line in corpus.lines("train", "en")])
    result = corpus.prepare(TOKENIZED="1")
    assert result.returncode == 0, result.stderr
    dictionary = Dictionary.load(str(corpus.out / "data-bin/dict.en.txt"))
    dataset = data_utils.load_indexed_dataset(str(corpus.out / "data-bin/train.en-de.en"), dictionary)
    assert sum((line == dictionary.unk()).sum() for line in dataset) == corpus.report()["train"]["en"]["unk"] == 60


def test_an_unknown_character_is_counted_as_unk(prepared):
    valid = prepared.report()["valid"]["de"]
    assert "☃" in valid["unk_examples"]
    assert valid["unk"] >= 1
    assert valid["unk_rate"] == valid["unk"] / valid["subwords"]
    assert f", de {valid['unk_rate']:.3%}" in prepared.output


def test_only_unseen_characters_are_unknown(prepared):
    seen = {unit for side in ("en", "de") for unit in (prepared.out / f"bpe/train.{side}").read_text().split()}
    for unit in prepared.report()["valid"]["de"]["unk_examples"]:
        assert len(unit.removesuffix("@@")) == 1
        assert unit not in seen


def test_fairseq_reads_what_was_prepared(prepared):
    from fairseq.data import Dictionary, data_utils

    folder = prepared.out / "data-bin"
    dictionary = Dictionary.load(str(folder / "dict.de.txt"))
    assert (folder / "dict.en.txt").read_bytes() == (folder / "dict.de.txt").read_bytes()
    for split in SPLITS:
        dataset = data_utils.load_indexed_dataset(str(folder / f"{split}.en-de.de"), dictionary)
        lines = (prepared.out / f"bpe/{split}.de").read_text(encoding="utf-8").split("\n")[:-1]
        expected = [" ".join(unit if unit in dictionary else "?" for unit in line.split(" ")) for line in lines]
        assert [dictionary.string(line, unk_string="?") for line in dataset] == expected
        assert sum((line == dictionary.unk()).sum() for line in dataset) == prepared.report()[split]["de"]["unk"]


def test_a_second_run_redoes_nothing(prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.out.rglob("*") if path.is_file()}
    result = prepared.prepare(MOMENTUM_ENV="/nowhere")  # nothing to do needs no Python either
    assert result.returncode == 0, result.stderr
    assert "nothing to do" in result.stdout
    before.pop(prepared.out / ".lock")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_on_a_finished_folder_are_refused_with_the_difference(prepared):
    before = checksums(prepared.out)
    result = prepared.prepare(BPE_OPERATIONS="31")
    assert result.returncode != 0
    assert "< BPE_OPERATIONS=30" in result.stderr
    assert "> BPE_OPERATIONS=31" in result.stderr
    assert checksums(prepared.out) == before


def test_other_input_on_a_finished_folder_is_refused(prepared, tmp_path):
    changed = Corpus(tmp_path / "raw", prepared.out)
    before = checksums(prepared.out)
    result = changed.prepare()
    assert result.returncode != 0
    assert "> sha256 train.en=" in result.stderr
    assert checksums(prepared.out) == before


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on(prepared, tmp_path):
    second = Corpus(prepared.folder, tmp_path / "out")
    with held(second.out / ".lock"):
        result = second.prepare()
    assert result.returncode != 0
    assert "another run" in result.stderr


def test_runs_side_by_side_share_a_finished_folder(prepared):
    with held(prepared.out / ".lock"):
        result = prepared.prepare()
    assert result.returncode == 0
    assert "stands, nothing to do" in result.stdout


def wait_for(process: subprocess.Popen, out: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(out.glob(pattern)):
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_killed_in_any_stage_and_resumed_gives_the_same_bytes(prepared, tmp_path):
    resumed = Corpus(prepared.folder, tmp_path / "out")
    for pattern in ("tokenised.part*", "bpe.part*", "data-bin.part*/dict.en.txt"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(**resumed.command(WORKERS="2"), **quiet, start_new_session=True) as process:
            wait_for(process, resumed.out, pattern)
            os.killpg(process.pid, signal.SIGKILL)
        assert not (resumed.out / pattern.split(".part")[0]).exists()
    result = resumed.prepare(WORKERS="2")
    assert result.returncode == 0, result.stderr
    assert checksums(resumed.out) == checksums(prepared.out)


@pytest.mark.slow
def test_a_full_disk_is_an_error_in_every_stage_and_the_rerun_completes(prepared, tmp_path):
    """A limit on a file's size fails a write as a full disk does."""
    corpus = Corpus(prepared.folder, tmp_path / "out")
    shutil.copytree(prepared.out, corpus.out)
    for stage in ("data-bin", "bpe", "tokenised"):
        shutil.rmtree(corpus.out / stage)
        result = corpus.prepare(limit_kib=1)
        assert result.returncode != 0
        assert f"{stage}: failed" in result.stderr
        assert "Traceback" not in result.stderr
        assert not (corpus.out / stage).exists()
        assert not list(corpus.out.glob("*.part*"))
    result = corpus.prepare()
    assert result.returncode == 0, result.stderr
    assert checksums(corpus.out) == checksums(prepared.out)


@pytest.mark.slow
def test_given_codes_and_dictionaries_are_used_and_settings_may_change_until_it_is_finished(corpus, prepared):
    corpus.set_line("train", "en", 2, "A zebra.")
    failed = corpus.prepare(MAX_LENGTH="2", MAX_RATIO="1")
    assert failed.returncode != 0
    given = {
        "CODES": str(prepared.out / "codes"),
        "SRCDICT": str(prepared.out / "data-bin/dict.en.txt"),
        "TGTDICT": str(prepared.out / "data-bin/dict.de.txt"),
    }
    assert "takes one dictionary" in corpus.prepare(**given).stderr
    result = corpus.prepare(**given, JOINED_DICTIONARY="0", LOWERCASE="1", TOKENIZED="1")
    assert result.returncode == 0, result.stderr
    for language in ("en", "de"):
        ours, theirs = (folder / f"data-bin/dict.{language}.txt" for folder in (corpus.out, prepared.out))
        assert ours.read_bytes() == theirs.read_bytes()
    assert (corpus.out / "codes").read_bytes() == (prepared.out / "codes").read_bytes()
    first = (corpus.out / "tokenised/train.en").read_text(encoding="utf-8").split("\n")[0]
    assert first == "the dog sees no. 0 and the dog."
    assert corpus.report()["train"]["en"]["unk"] > 0
