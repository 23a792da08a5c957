"""Preparing parallel text, through the real command line, on small files and on faulty ones."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "valid", "test")


@dataclass
class Corpus:
    """Raw files of a small corpus, made where the folder is missing, to be spoilt; and a way to prepare them."""

    folder: Path
    out: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder.exists():
            return
        self.folder.mkdir()
        nouns = [("dog", "Hund"), ("man", "Mann"), ("tree", "Baum"), ("hat", "Hut")]
        pairs = [
            (f"The {a} sees no. {n} and the {b}.", f"Der {c} sieht Nr. {n} und den {d}.")
            for n in range(5)
            for a, c in nouns
            for b, d in nouns
        ]
        for split, chosen in zip(SPLITS, (pairs[:60], pairs[60:70], pairs[70:]), strict=True):
            for language, lines in zip(("en", "de"), zip(*chosen, strict=True), strict=True):
                self.write(split, language, list(lines))

    def path(self, split: str, language: str) -> Path:
        return self.folder / f"{split}.{language}"

    def lines(self, split: str, language: str) -> list[str]:
        return self.path(split, language).read_text(encoding="utf-8").split("\n")[:-1]

    def write(self, split: str, language: str, lines: list[str]) -> None:
        self.path(split, language).write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")

    def set_line(self, split: str, language: str, number: int, text: str) -> None:
        lines = self.lines(split, language)
        lines[number - 1] = text
        self.write(split, language, lines)

    def command(self, **variables: str) -> dict:
        settings = {"DATA": str(self.folder), "OUT": str(self.out), "BPE_OPERATIONS": "30", "WORKERS": "1"}
        names = {"TRAIN": "train", "VALID": "valid", "TEST": "test", "MOMENTUM_ENV": sys.prefix}
        environment = {**os.environ, **settings, **names, **self.variables, **variables}
        return {"args": ["bash", str(ROOT / "scripts/prepare_parallel.sh")], "env": environment, "cwd": "/"}

    def prepare(self, limit_kib: int | None = None, **variables: str) -> subprocess.CompletedProcess:
        command = self.command(**variables)
        if limit_kib:
            command["args"] = ["bash", "-c", f'ulimit -f {limit_kib}; exec "$@"', "bash", *command["args"]]
        return subprocess.run(**command, capture_output=True, text=True)

    def report(self) -> dict:
        return json.loads((self.out / "report.json").read_text(encoding="utf-8"))


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_refused(corpus: Corpus, *words: str, **variables: str) -> None:
    """The preparation fails, says these words, and leaves neither a stage's half nor a data-bin."""
    result = corpus.prepare(**variables)
    assert result.returncode != 0, result.stdout
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(corpus.out.glob("*.part*"))
    assert not (corpus.out / "data-bin").exists()


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
    corpus.set_line("train", "en", 8, "A line\u2028in two\x85or\x0cthree\rparts.\r")
    corpus.set_line("valid", "de", 2, 'Der Hund\u2028sieht ☃ und den "&".')
    corpus.set_line("test", "en", 1, "Known.\r")
    result = corpus.prepare()
    assert result.returncode == 0, result.stderr
    corpus.output = result.stdout
    return corpus


def test_training_lines_that_teach_nothing_are_dropped_and_counted(prepared):
    expected = {"lines_in": 60, "lines_out": 55, "dropped": {"empty": 2, "too_long": 2, "ratio": 1}}
    train = prepared.report()["train"]
    assert {name: train[name] for name in expected} == expected
    assert "train: 60 lines in, 55 out, dropped because empty 2, too long 2, ratio 1" in prepared.output


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


def test_a_sentence_that_the_binariser_loses_is_noticed(corpus, tmp_path):
    tools = tmp_path / "environment/bin"
    tools.mkdir(parents=True)
    (tools / "python").symlink_to(sys.executable)
    (tools / "fairseq-preprocess").write_text("#!/bin/sh\necho '| [en] bpe/train.en: 59 sents, 300 tokens'\n")
    (tools / "fairseq-preprocess").chmod(0o755)
    modules = sysconfig.get_path("purelib")
    assert_refused(corpus, "train.en: 60 lines in, 59 sentences out", MOMENTUM_ENV=str(tools.parent), PYTHONPATH=modules)


def test_punctuation_of_tokenised_text_is_not_normalised(corpus):
    assert_refused(corpus, "NORMALIZE=1 and TOKENIZED=1", NORMALIZE="1", TOKENIZED="1")


@contextmanager
def lock_held(out: Path) -> Iterator[None]:
    """As while another run prepares in `out`."""
    out.mkdir(exist_ok=True)
    with subprocess.Popen(["flock", str(out / ".lock"), "sleep", "30"], start_new_session=True) as holder:
        try:
            time.sleep(0.5)
            yield
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on(prepared, tmp_path):
    second = Corpus(prepared.folder, tmp_path / "out")
    with lock_held(second.out):
        result = second.prepare()
    assert result.returncode != 0
    assert "another run" in result.stderr


def test_runs_side_by_side_share_a_finished_folder(prepared):
    with lock_held(prepared.out):
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


def test_unequal_line_counts_are_refused_with_both_counts(corpus):
    corpus.write("valid", "de", corpus.lines("valid", "de")[:-1])
    assert_refused(corpus, "valid.en has 10 lines", "valid.de has 9")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_an_empty_line_in_valid_or_test_is_refused_by_file_and_line(corpus, split):
    corpus.set_line(split, "de", 4, "\x01 ")
    assert_refused(corpus, f"{split}.de:4", "empty line")


def test_a_line_of_ten_thousand_tokens_in_test_is_refused_by_line(corpus):
    corpus.set_line("test", "en", 3, "word " * 10_000)
    assert_refused(corpus, "test.en:3", "sub-words")


@pytest.mark.parametrize("split", ["train", "test"])
def test_invalid_utf8_is_refused_by_file_and_line(corpus, split):
    lines = corpus.path(split, "de").read_bytes().split(b"\n")
    lines[4] = "Männer".encode("latin-1")
    corpus.path(split, "de").write_bytes(b"\n".join(lines))
    assert_refused(corpus, f"{split}.de:5", "UTF-8", "0xe4")


def test_an_empty_file_is_refused_by_name(corpus):
    corpus.path("train", "en").write_bytes(b"")
    assert_refused(corpus, "train.en", "empty")


def test_a_missing_file_is_refused_by_name(corpus):
    corpus.path("valid", "de").unlink()
    assert_refused(corpus, "valid.de", "no such file")


def test_a_corpus_of_which_nothing_is_left_is_refused_with_the_reasons(corpus):
    corpus.write("train", "en", [""] * 60)
    assert_refused(corpus, "no pair is left", "empty 60")


@pytest.mark.parametrize("name", ["SRCDICT", "TGTDICT", "CODES"])
def test_a_missing_dictionary_or_codes_file_is_refused_by_name(corpus, name, tmp_path):
    assert_refused(corpus, f"{name}={tmp_path / 'missing'}", "no such file", **{name: str(tmp_path / "missing")})


def test_a_file_that_is_no_dictionary_is_refused_by_line(corpus):
    assert_refused(corpus, "train.en:1", "dictionary", SRCDICT=str(corpus.path("train", "en")))


def test_a_file_that_is_no_codes_is_refused_by_line(corpus):
    assert_refused(corpus, "train.en:1", "BPE codes", CODES=str(corpus.path("train", "en")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BPE_OPERATIONS", "many"),
        ("BPE_OPERATIONS", "0"),
        ("MAX_LENGTH", "-1"),
        ("MAX_RATIO", "0.5"),
        ("WORKERS", "0"),
        ("LOWERCASE", "yes"),
        ("NORMALIZE", "2"),
        ("CORPUS", "two\nlines"),
        ("TARGET_LANG", "en"),
        ("DATA", ""),
        ("DATA", "/nowhere"),
        ("OUT", ""),
    ],
)
def test_a_bad_setting_is_refused_by_name(corpus, name, value):
    assert_refused(corpus, name, value, **{name: value})


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
