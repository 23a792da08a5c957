"""What the recipes keep in a training's folder: it goes on as it began, and what it was scored with, each result for itself."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from common.run_record import training_record

from tests.lra_sets import write_set
from tests.scripts.commands import ROOT, run


def test_a_training_is_not_made_longer_with_other_learning_rates_than_it_began_with(tmp_path):
    folder = tmp_path / "runs" / "tiny" / "listops" / "linear-seed1"
    folder.mkdir(parents=True)
    (folder / "settings.txt").write_text("BATCH=8 LR=1e-2 WARMUP=2 MAX_POSITIONS=64 PRECISION=fp32\nflags \n")
    (folder / "schedule.txt").write_text("MAX_UPDATE=20\n")
    torch.save({"cfg": {}, "optimizer_history": [{"num_updates": 20}]}, folder / "checkpoint_last.pt")
    places = {"PREPARED": write_set(tmp_path / "set"), "RUNS": tmp_path / "runs"}
    settings = {**places, "SIZE": "tiny", "TASK": "listops", "ATTENTION": "linear", "STAGES": "train", "DEVICE": "cpu"}
    refused = run("examples/lra/run.sh", MAX_UPDATE=40, **settings)
    assert "its learning rate falls by MAX_UPDATE=20 and can't go on by MAX_UPDATE=40" in refused.stderr
    assert "is trained, nothing to do" in run("examples/lra/run.sh", MAX_UPDATE=20, **settings).stdout


def keep(folder: Path, settings: str, schedule: str) -> str:
    """What a recipe says that would train in the folder with these settings."""
    kept = 'source "$1/scripts/common.sh"; keep_settings "$2" "$3"; keep_schedule "$2" "$4"'
    command = ["bash", "-c", kept, "recipe", ROOT, folder, settings, schedule]
    return subprocess.run(command, capture_output=True, text=True).stderr


@pytest.mark.parametrize("noted", [None, "BATCH=8 LR=1e-2\nflags \n"])
def test_of_a_training_by_an_older_version_nothing_is_noted_or_refused_that_it_did_not_note(tmp_path, noted):
    (tmp_path / "checkpoint_last.pt").touch()
    if noted:
        (tmp_path / "settings.txt").write_text(noted)
    before = sorted(tmp_path.iterdir())
    for updates in (40, 20):
        assert keep(tmp_path, "BATCH=8 LR=1e-2\nATTENTION=linear", f"MAX_UPDATE={updates}") == ""
    assert sorted(tmp_path.iterdir()) == before


def test_of_a_training_all_is_refused_that_is_other_than_noted(tmp_path):
    assert keep(tmp_path, "BATCH=8 LR=1e-2\nATTENTION=linear", "MAX_UPDATE=20") == ""
    (tmp_path / "checkpoint_last.pt").touch()
    assert "> ATTENTION=momentum" in keep(tmp_path, "BATCH=8 LR=1e-2\nATTENTION=momentum", "MAX_UPDATE=20")
    assert "can't go on by MAX_UPDATE=40" in keep(tmp_path, "BATCH=8 LR=1e-2\nATTENTION=linear", "MAX_UPDATE=40")


def test_a_training_goes_on_with_the_plug_in_that_it_was_begun_with(tmp_path, monkeypatch):
    """One begun with this repository's own notes none, as ever. A finished training isn't scored with another, either."""
    monkeypatch.setenv("MAX_UPDATE", "20")
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    for begun, others in (("", ("mine",)), ("mine", ("", "other"))):
        folder = tmp_path / f"begun with {begun}"
        monkeypatch.setenv("USER_DIR", begun and str(tmp_path / begun))
        assert keep(folder, "LR=1", "") == ""
        assert ("USER_DIR" in (folder / "settings.txt").read_text()) == bool(begun)
        torch.save({"cfg": {}, "optimizer_history": [{"num_updates": 20}]}, folder / "checkpoint_last.pt")
        assert keep(folder, "LR=1", "") == ""
        for other in others:
            monkeypatch.setenv("USER_DIR", other and str(tmp_path / other))
            said = keep(folder, "LR=1", "")
            assert "was trained with other settings" in said and "USER_DIR=mine" in said


def test_a_result_of_another_plug_in_is_scored_anew(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").touch()
    for name in ("checkpoint_last.pt", "result.json"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "checkpoint_last.pt", (0, 0))
    score = 'source "$1/scripts/common.sh"; is_scored "$2" "$3" A=1 || score_by "$2" "$3" A=1 echo anew'
    command = ["bash", "-c", score, "recipe", ROOT, tmp_path, tmp_path / "result.json"]
    said = []
    for plugin in ("", "", "mine", "mine", ""):
        monkeypatch.setenv("USER_DIR", plugin and str(tmp_path / plugin))
        said.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert said == ["anew\n", "", "anew\n", "", "anew\n"]


def test_only_a_plug_in_that_is_not_ours_is_handed_on(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").touch()
    command = ["bash", "-c", 'source "$1/scripts/common.sh"; printenv USER_DIR || true', "recipe", ROOT]
    for given, handed_on in (("", ""), (f"{ROOT}/momentum_fairseq", ""), (f"{tmp_path}/.", f"{tmp_path}\n")):
        monkeypatch.setenv("USER_DIR", given)
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == handed_on


@pytest.mark.parametrize(("folder", "said"), [("gone", "no such folder"), (".", "no __init__.py in it")])
def test_a_plug_in_that_is_not_there_is_named(tmp_path, monkeypatch, folder, said):
    monkeypatch.chdir(tmp_path)
    for script in ("scripts/train.sh", "examples/multi30k_en_de/run.sh"):
        refused = run(script, USER_DIR=folder)
        assert refused.returncode != 0 and f"error: USER_DIR={folder}: {said}" in refused.stderr


def test_a_result_says_how_far_its_training_had_come(tmp_path):
    for name, updates in (("checkpoint_best.pt", 7), ("checkpoint_last.pt", 8)):
        history = [{"num_updates": n} for n in (3, updates)]  # one entry for each time that the training was begun
        checkpoint = {"cfg": {"optimization": {"max_update": 20}}, "optimizer_history": history}
        torch.save(checkpoint, tmp_path / name)
    expected = {"updates": 7, "last_update": 8, "max_update": 20, "training_revisions": []}
    assert training_record(tmp_path / "checkpoint_best.pt") == expected
    (tmp_path / "checkpoint_last.pt").unlink()
    assert training_record(tmp_path / "checkpoint_best.pt")["last_update"] == 7


@pytest.fixture
def python_that_counts(tmp_path: Path) -> Path:
    """An environment whose python writes the JSON file that it is told to, and a line in `calls`."""
    program = tmp_path / "env" / "bin" / "python"
    program.parent.mkdir(parents=True)
    write = f'echo "$word" >>"{tmp_path}/calls"; mkdir -p "$(dirname "$word")"; touch "$word"'
    program.write_text(f"#!/bin/sh\nfor word; do case $word in *.json) {write} ;; esac; done\n")
    program.chmod(0o755)
    return program.parent.parent


def test_results_of_one_name_in_two_folders_stand_each_by_its_own_settings(tmp_path, python_that_counts):
    (tmp_path / "checkpoint_best.pt").touch()
    row = {"ROW": "linear", "DATA": tmp_path, "MODEL": tmp_path, "STAGES": "evaluate", "MOMENTUM_ENV": python_that_counts}
    results = [tmp_path / folder / "linear-seed1.json" for folder in ("scores", "speeds")]
    for dtypes in (("float32", "bfloat16"), ("float32", "bfloat16"), ("float32", "float16")):
        for result, dtype in zip(results, dtypes, strict=True):
            assert run("scripts/run_row.sh", RESULT=result, DTYPE=dtype, **row).returncode == 0
    assert (tmp_path / "calls").read_text().split() == [str(results[i]) for i in (0, 1, 1)]


def test_a_result_is_made_anew_where_its_training_or_teacher_went_on_or_nothing_says_how(tmp_path, python_that_counts):
    teacher, result = tmp_path / "teacher.pt", tmp_path / "results" / "linear-seed1.json"
    row = {"ROW": "linear", "DATA": tmp_path, "MODEL": tmp_path, "RESULT": result, "STAGES": "evaluate", "RESCORE_WITH": teacher}
    calls = []
    for newer in (tmp_path / "checkpoint_best.pt", None, tmp_path / "checkpoint_last.pt", teacher, "note", None):
        if newer == "note":
            next(tmp_path.glob("*.settings")).unlink()
        elif newer:
            newer.touch()
        assert run("scripts/run_row.sh", MOMENTUM_ENV=python_that_counts, **row).returncode == 0
        calls.append(len((tmp_path / "calls").read_text().split()))
    assert calls == [1, 1, 2, 3, 4, 4]


def test_a_result_made_by_a_run_that_was_killed_is_not_taken_for_one_of_the_settings_before(tmp_path, python_that_counts):
    (tmp_path / "checkpoint_best.pt").touch()
    row = {"ROW": "linear", "DATA": tmp_path, "MODEL": tmp_path, "RESULT": tmp_path / "linear-seed1.json", "STAGES": "evaluate"}
    python = python_that_counts / "bin" / "python"
    assert run("scripts/run_row.sh", DTYPE="float32", MOMENTUM_ENV=python_that_counts, **row).returncode == 0
    writes = python.read_text()
    python.write_text(f"{writes}kill -9 $PPID $$\n")  # the script that called it, once the result is there
    assert run("scripts/run_row.sh", DTYPE="bfloat16", MOMENTUM_ENV=python_that_counts, **row).returncode != 0
    python.write_text(writes)
    assert run("scripts/run_row.sh", DTYPE="float32", MOMENTUM_ENV=python_that_counts, **row).returncode == 0
    assert len((tmp_path / "calls").read_text().split()) == 3


def test_on_a_cpu_a_row_is_scored_there_too(tmp_path, python_that_counts):
    (tmp_path / "checkpoint_best.pt").touch()
    row = {"ROW": "linear", "DATA": tmp_path, "MODEL": tmp_path, "RESULT": tmp_path / "linear-seed1.json", "STAGES": "evaluate"}
    python = python_that_counts / "bin" / "python"
    python.write_text(f'{python.read_text()}echo "$*" >>"{tmp_path}/words"\n')
    for device in ("cpu", "auto"):
        assert run("scripts/run_row.sh", DEVICE=device, MOMENTUM_ENV=python_that_counts, **row).returncode == 0
    assert ["--cpu" in line.split() for line in (tmp_path / "words").read_text().splitlines()] == [True, False]


def test_the_best_checkpoint_and_the_mean_of_several_are_scored_each_for_itself(tmp_path, python_that_counts):
    for name in ("best", "1_1", "1_2"):
        (tmp_path / f"checkpoint_{name}.pt").touch()
    (tmp_path / "average2.pt").touch()
    row = {"ROW": "linear", "DATA": tmp_path, "MODEL": tmp_path, "RESULT": tmp_path / "linear-seed1.json", "STAGES": "evaluate"}
    calls = []
    for average in (0, 0, 2, 2, 0):
        assert run("scripts/run_row.sh", AVERAGE=average, MOMENTUM_ENV=python_that_counts, **row).returncode == 0
        calls.append(len((tmp_path / "calls").read_text().split()))
    assert calls == [1, 1, 2, 2, 3]


def test_a_teacher_whose_training_was_interrupted_is_trained_to_its_end_before_it_ranks(tmp_path, python_that_counts):
    for folder in ("prepared/data-bin", "distilled-tiny/teacher", "tiny-raw-linear-seed1"):
        (tmp_path / "multi30k" / folder).mkdir(parents=True)
        (tmp_path / "multi30k" / folder / "checkpoint_best.pt").touch()
    row = {"CORPUS": "multi30k", "ROW": "linear", "SIZE": "tiny", "DISTILLED": 0, "RESCORE": 1, "LENGTH_BEAM": 2}
    places = {"RUNS": tmp_path, "RESULTS": tmp_path / "results", "MOMENTUM_ENV": python_that_counts, "STAGES": "evaluate"}
    halfway = run("examples/iwslt16_en_de/run.sh", **row, **places)
    assert "distill.sh: error:" in halfway.stderr and not (tmp_path / "calls").exists()
    (tmp_path / "multi30k" / "distilled-tiny" / "teacher" / "trained").touch()
    assert run("examples/iwslt16_en_de/run.sh", **row, **places).returncode == 0
    assert (tmp_path / "calls").read_text().endswith("raw-linear-seed1-beam2-rescored.json\n")


def test_other_settings_of_a_teacher_than_the_one_that_stands_has_are_refused(tmp_path, python_that_counts):
    for folder in ("prepared/data-bin", "distilled-tiny/data", "tiny-linear-seed1", "tiny-raw-linear-seed1"):
        (tmp_path / "multi30k" / folder).mkdir(parents=True)
        (tmp_path / "multi30k" / folder / "checkpoint_best.pt").touch()
    (tmp_path / "multi30k" / "distilled-tiny" / "settings.txt").write_text("TEACHER_MAX_UPDATE=7\nTEACHER_LR=1e-3\nBEAM=4\n")
    row = {"CORPUS": "multi30k", "ROW": "linear", "SIZE": "tiny", "RUNS": tmp_path, "RESULTS": tmp_path / "results"}
    stage = {"STAGES": "evaluate", "MOMENTUM_ENV": python_that_counts}
    refused = run("examples/iwslt16_en_de/run.sh", **row, **stage, TEACHER_LR="1e-3", TEACHER_MAX_UPDATE=8)
    assert refused.returncode == 1 and "TEACHER_MAX_UPDATE=8: the teacher in" in refused.stderr
    assert "has TEACHER_MAX_UPDATE=7; set that or leave TEACHER_MAX_UPDATE out" in refused.stderr
    for given in ({"TEACHER_MAX_UPDATE": 7}, {"TEACHER_SEED": 2}, {"DISTILLED": 0, "TEACHER_MAX_UPDATE": 8}, {}):
        taken = run("examples/iwslt16_en_de/run.sh", **row, **{**stage, **given})
        assert taken.returncode == 0, taken.stderr


def test_images_are_scored_anew_where_another_number_is_wanted(tmp_path, python_that_counts):
    model = tmp_path / "mnist-tiny" / "linear-seed1"
    model.mkdir(parents=True)
    (model / "checkpoint_best.pt").touch()
    row = {"ROW": "linear", "SIZE": "tiny", "STAGES": "score", "DEVICE": "cpu", "MOMENTUM_ENV": python_that_counts}
    places = {"DATA": tmp_path, "RUNS": tmp_path, "RESULTS": tmp_path / "results"}
    for images in (4, 4, 0, 0):
        made = run("examples/image_generation/run.sh", TEST_IMAGES=images, **row, **places)
        assert made.returncode == 0, made.stderr
    assert len((tmp_path / "calls").read_text().split()) == 2
