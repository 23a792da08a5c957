"""prepare_lra.sh through the command line, and the report on what it made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lra_report import count_repeated
from PIL import Image

from momentum_fairseq.data.labelled_sequences import LabelledSequences, SequenceWriter
from tests.scripts.lra_scripts import SCRIPTS, call


def prepare(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "MOMENTUM_ENV": sys.prefix, "WORKERS": "1", **variables}
    command = ["bash", str(SCRIPTS / "prepare_lra.sh"), *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)


@pytest.mark.slow
def test_a_task_is_prepared_once_with_its_report_and_further_arguments_reach_the_generator(tmp_path):
    further = ("--max-depth", "3", "--min-length", "10", "--max-length", "40")
    result = prepare(*further, LRA_TASK="listops", OUT=str(tmp_path), COUNTS="10 4 6")
    assert result.returncode == 0, result.stderr
    assert [len(LabelledSequences(tmp_path / "listops", split)) for split in ("train", "dev", "test")] == [10, 4, 6]
    assert json.loads((tmp_path / "listops.json").read_text())["splits"]["train"]["longest"] < 40
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if not path.name.endswith(".lock")}
    again = prepare(*further, LRA_TASK="listops", OUT=str(tmp_path), COUNTS="10 4 6")
    assert again.returncode == 0 and "stands, nothing to do" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_an_error_of_a_step_ends_the_script_in_one_line(tmp_path):
    result = prepare(LRA_TASK="text", DATA=str(tmp_path), OUT=str(tmp_path / "out"))
    assert result.returncode == 1
    assert result.stderr.strip().endswith("neither train/pos, aclImdb/train/pos nor train.tsv.xz in it")
    assert not (tmp_path / "out" / "text").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LRA_TASK": "lisp"}, "LRA_TASK=lisp: must be listops, text, retrieval, image or pathfinder"),
        ({}, "LRA_TASK=: must be"),
        ({"LRA_TASK": "listops", "OUT": ""}, "OUT is not set"),
        ({"LRA_TASK": "text"}, "DATA is not set: name the folder of text's published files"),
        ({"LRA_TASK": "image", "DATA": "/nowhere"}, "DATA=/nowhere: no such folder"),
        ({"LRA_TASK": "pathfinder", "DATA": "/tmp"}, "DATA=/tmp: pathfinder is generated"),
        ({"LRA_TASK": "listops", "COUNTS": "1 2"}, "COUNTS=1 2: must be three numbers"),
        ({"LRA_TASK": "listops", "MAX_LENGTH": "9"}, "MAX_LENGTH=9: only text and retrieval are cut"),
        ({"LRA_TASK": "listops", "SEED": "one"}, "SEED=one: must be a whole number"),
        ({"LRA_TASK": "listops", "WORKERS": "0"}, "WORKERS=0: must be a whole number, at least 1"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tmp_path, variables, message):
    result = prepare(**{"OUT": str(tmp_path), **variables})
    assert result.returncode == 1
    assert message in result.stderr


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images of 2 × 2 pixels, the first of dev that of train again."""
    writer = SequenceWriter(tmp_path / "set", vocabulary=256, classes=2)
    pixels = np.arange(24, dtype=np.uint8)
    writer.write("train", np.array([0, 1, 1, 0]), (pixels[:16], np.full(4, 4)))
    writer.write("dev", np.array([0, 1]), (np.concatenate([pixels[:4], pixels[20:]]), np.full(2, 4)))
    writer.finish(settings={"task": "image", "made": "by a test"})
    return tmp_path / "set"


def test_the_report_counts_labels_lengths_and_repeated_examples(tmp_path, folder, monkeypatch, capsys):
    assert call(monkeypatch, "lra_report", folder, "--json", tmp_path / "report.json") == 0
    splits = json.loads((tmp_path / "report.json").read_text())["splits"]
    assert splits["train"]["by_label"] == [2, 2] and splits["train"]["majority_accuracy"] == 50
    assert splits["train"]["lengths"][0] | {"mean": 4, "0%": 4, "100%": 4} == splits["train"]["lengths"][0]
    assert (splits["train"]["repeated"], splits["dev"]["repeated"]) == (0, 1)
    assert "dev   2 examples, 1 repeated; by label [1, 1]" in capsys.readouterr().out


def test_a_pair_is_repeated_where_both_of_its_sequences_are(tmp_path):
    writer, ones = SequenceWriter(tmp_path, vocabulary=9, classes=2, parts=2), np.ones(3, dtype=int)
    writer.write("train", np.array([0, 1, 1]), (np.array([1, 1, 1]), ones), (np.array([2, 3, 2]), ones))
    writer.finish()
    assert count_repeated({"train": LabelledSequences(tmp_path, "train")}) == {"train": 1}


def test_the_report_says_how_far_the_first_token_tells_the_label(tmp_path, monkeypatch):
    writer = SequenceWriter(tmp_path / "set", vocabulary=9, classes=3)
    train, dev = np.array([7, 0, 7, 7, 1, 5, 5, 8], dtype=np.uint8), np.array([7, 5, 5, 7, 7], dtype=np.uint8)
    writer.write("train", np.array([2, 2, 0, 1, 1]), (train, np.array([2, 1, 2, 1, 2])))
    writer.write("dev", np.array([2, 2, 1, 0]), (dev, np.array([1, 1, 2, 1])))
    writer.finish(settings={"task": "listops", "made": "by a test"})
    assert call(monkeypatch, "lra_report", tmp_path / "set", "--json", tmp_path / "report.json") == 0
    splits = json.loads((tmp_path / "report.json").read_text())["splits"]
    assert (splits["train"]["first_token_accuracy"], splits["dev"]["first_token_accuracy"]) == (80, 50)


def test_the_sheet_shows_each_class_in_rows_of_its_own(tmp_path, folder, monkeypatch):
    assert call(monkeypatch, "lra_report", folder, "--sheet", tmp_path / "sheet.png") == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))[::2, ::2]
    assert sheet.shape == (2 * 3 * 4, 12 * 4)
    assert sheet[1:3, 1:3].tolist() == [[0, 1], [2, 3]]
    assert sheet[13:15, 5:7].tolist() == [[8, 9], [10, 11]]


def test_a_damaged_set_is_not_reported(folder, monkeypatch):
    path = folder / "train.tokens.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert "train.tokens.npy: not the file that meta.json describes" in call(monkeypatch, "lra_report", folder)


def test_what_is_no_image_has_no_sheet(tmp_path, monkeypatch):
    writer = SequenceWriter(tmp_path / "set", vocabulary=5, classes=2)
    writer.write("train", np.array([0, 1]), (np.arange(5), np.array([2, 3])))
    writer.finish(settings={"task": "text", "made": "by a test"})
    message = call(monkeypatch, "lra_report", tmp_path / "set", "--sheet", tmp_path / "sheet.png")
    assert "set: the sequences are no square images" in message
