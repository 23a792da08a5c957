"""Preparing ted_mix through the real command line, on small files of its form and on faulty ones."""

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.refusals import assert_says

ROOT = Path(__file__).resolve().parents[2]


def lines(first: int, count: int, language: str) -> list[str]:
    """Tokenised, escaped, lower-cased sentences."""
    text = {"en": "the dog didn &apos;t see no. {} , ok ?", "de": "der hund sah nr. {} nicht , klar ?"}[language]
    return [text.format(n) for n in range(first, first + count)]


class TedMix:
    """The files, to be spoilt, and a way to prepare them."""

    def __init__(self, folder: Path) -> None:
        self.data, self.out = folder / "data", folder / "out"
        self.data.mkdir()
        for language in ("en", "de"):
            self.write(f"train.{language}.xz", lines(0, 40, language))
            self.write(f"valid.{language}", lines(40, 6, language))
            self.write(f"test.{language}", lines(46, 5, language))
        self.write("train.src.xz", ["tatoeba"] * 30 + ["iwslt14_train"] * 10)

    def write(self, name: str, text: list[str]) -> None:
        raw = "".join(line + "\n" for line in text).encode()
        (self.data / name).write_bytes(lzma.compress(raw) if name.endswith(".xz") else raw)

    def prepare(self, **variables: str) -> subprocess.CompletedProcess:
        settings = {"DATA": str(self.data), "OUT": str(self.out), "BPE_OPERATIONS": "30", "WORKERS": "1"}
        environment = {**os.environ, **settings, "MOMENTUM_ENV": sys.prefix, **variables}
        command = ["bash", str(ROOT / "scripts/prepare_ted_mix.sh")]
        return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)


def assert_refused(ted_mix: TedMix, *words: str, **variables: str) -> None:
    """The preparation fails, says these words, and leaves nothing of any stage."""
    assert_says(ted_mix.prepare(**variables), *words)
    assert {path.name for path in ted_mix.out.glob("*")} <= {".raw.lock"}


@pytest.fixture
def ted_mix(tmp_path) -> TedMix:
    return TedMix(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> TedMix:
    ted_mix = TedMix(tmp_path_factory.mktemp("prepared"))
    result = ted_mix.prepare()
    assert result.returncode == 0, result.stderr
    ted_mix.output = result.stdout
    return ted_mix


def test_the_settings_say_lower_cased_tokenised_and_a_substitute_training_set(prepared):
    settings = (prepared.out / "settings.txt").read_text(encoding="utf-8").split("\n")
    assert {"LOWERCASE=1", "TOKENIZED=1", "SOURCE_LANG=en", "TARGET_LANG=de"} <= set(settings)
    (corpus,) = [line for line in settings if line.startswith("CORPUS=")]
    assert "lower-cased" in corpus
    assert "a substitute for IWSLT'16's training set" in corpus


def test_the_tokens_stay_as_they_are(prepared):
    for language in ("en", "de"):
        text = (prepared.out / f"tokenised/train.{language}").read_text(encoding="utf-8")
        assert text.split("\n")[:-1] == lines(0, 40, language)


def test_the_lines_of_each_source_are_said_and_recorded(prepared):
    assert "train: 40 lines in and out, none dropped: tatoeba 30, iwslt14_train 10" in prepared.output
    assert "valid: 6 lines, test: 5 lines in and out, none dropped" in prepared.output
    report = json.loads((prepared.out / "raw/report.json").read_text(encoding="utf-8"))
    assert report["train"] == {"lines_in": 40, "lines_out": 40, "sources": {"tatoeba": 30, "iwslt14_train": 10}}


def test_a_second_run_redoes_nothing(prepared):
    result = prepared.prepare(MOMENTUM_ENV="/nowhere")  # nothing to do needs no Python either
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("nothing to do") == 2


@pytest.mark.parametrize("kept", [0, 20, -1])
def test_a_truncated_xz_file_is_refused_by_name(ted_mix, kept):
    packed = (ted_mix.data / "train.de.xz").read_bytes()
    (ted_mix.data / "train.de.xz").write_bytes(packed[:kept])
    assert_refused(ted_mix, "train.de.xz: not a whole .xz file")


def test_a_missing_file_is_refused_by_name(ted_mix):
    (ted_mix.data / "train.src.xz").unlink()
    assert_refused(ted_mix, "train.src: no such file")


@pytest.mark.parametrize(("name", "other"), [("train.src.xz", "train.en"), ("train.de.xz", "train.en"), ("valid.de", "valid.en")])
def test_unequal_line_counts_are_refused_with_both_counts(ted_mix, name, other):
    ted_mix.write(name, ["a b"] * 3)
    count = 40 if other == "train.en" else 6
    assert_refused(ted_mix, f"{other} has {count} lines, {name.removesuffix('.xz')} has 3")


@pytest.mark.parametrize("name", ["train.en.xz", "test.de"])
def test_an_empty_file_is_refused_by_name(ted_mix, name):
    ted_mix.write(name, [])
    assert_refused(ted_mix, f"{name}: the file is empty")


def test_invalid_utf8_is_refused_by_file_and_line(ted_mix):
    (ted_mix.data / "valid.de").write_bytes("klar\nmänner\n".encode("latin-1"))
    assert_refused(ted_mix, "valid.de:2: invalid UTF-8", "0xe4")


@pytest.mark.parametrize(("name", "value"), [("DATA", ""), ("DATA", "/nowhere"), ("DATA", str(ROOT / "tests")), ("OUT", "")])
def test_a_bad_setting_is_refused_by_name(ted_mix, name, value):
    assert_refused(ted_mix, name, value, **{name: value})
