"""The recipe of Long Range Arena: from data to JSON, a second call that redoes nothing, what it refuses; many on one machine."""

import json
import subprocess
from subprocess import CompletedProcess

import pytest

from tests.lra_sets import COUNTS, write_set
from tests.scripts.commands import held, run


def recipe(script: str, **variables: object) -> CompletedProcess[str]:
    return run(f"examples/lra/{script}", **{"DEVICE": "cpu", **variables})


def test_wrong_settings_are_named(tmp_path):
    given = {"TASK": "listops", "ATTENTION": "linear", "RUNS": tmp_path}
    for name, value, message in (
        ("TASK", "chess", "TASK=chess: must be listops, text, retrieval, image or pathfinder"),
        ("SIZE", "huge", "SIZE=huge: must be paper, small or tiny"),
        ("ATTENTION", "", "ATTENTION is not set: name softmax"),
        ("DEVICE", "tpu", "DEVICE=tpu: must be cpu, cuda or auto"),
        ("MAX_UPDATE", "0", "MAX_UPDATE=0: must be a whole number, at least 1"),
        ("MAX_MINUTES", "long", "MAX_MINUTES=long: must be a number"),
        ("PRECISION", "bf16", "PRECISION=bf16 needs a GPU"),
        ("PREPARED", tmp_path, "no set in it; make it with scripts/prepare_lra.sh"),
    ):
        result = recipe("run.sh", **{**given, name: value})
        assert result.returncode != 0 and message in result.stderr, result.stderr


def test_a_second_run_in_a_folder_that_is_trained_in_is_refused_and_leaves_its_settings(tmp_path):
    folder = tmp_path / "runs" / "tiny" / "listops" / "mine-seed1"
    folder.mkdir(parents=True)
    (folder / "settings.txt").write_text("the first's\n")
    settings = {"PREPARED": write_set(tmp_path / "set"), "RUNS": tmp_path / "runs", "SIZE": "tiny", "TASK": "listops"}
    with held(folder / ".lock"):
        refused = recipe("run.sh", ATTENTION="linear", ROW_NAME="mine", **settings)
    assert refused.returncode == 1 and "another training is running there; wait for it" in refused.stderr
    assert (folder / "settings.txt").read_text() == "the first's\n"


def test_a_row_of_ones_own_name_is_not_gone_on_with_by_another_attention(tmp_path):
    folder = tmp_path / "runs" / "tiny" / "listops" / "mine-seed1"
    settings = {"PREPARED": write_set(tmp_path / "set"), "RUNS": tmp_path / "runs", "SIZE": "tiny", "TASK": "listops"}
    folder.mkdir(parents=True)
    (folder / "settings.txt").write_text("BATCH=8 LR=1e-2 WARMUP=2 MAX_POSITIONS=64 PRECISION=fp32\nATTENTION=linear\nflags \n")
    (folder / "checkpoint_last.pt").touch()
    refused = recipe("run.sh", ATTENTION="momentum", ROW_NAME="mine", **settings)
    assert refused.returncode == 1 and "> ATTENTION=momentum" in refused.stderr


def test_a_training_is_not_gone_on_with_on_other_data(tmp_path):
    settings = {"RUNS": tmp_path / "runs", "SIZE": "tiny", "TASK": "listops", "ATTENTION": "linear", "STAGES": "train"}
    begun = run("examples/lra/run.sh", "--no-such-flag", PREPARED=write_set(tmp_path / "set"), **settings)
    assert "unrecognized arguments: --no-such-flag" in begun.stderr
    (tmp_path / "runs" / "tiny" / "listops" / "linear-seed1" / "checkpoint_last.pt").touch()
    other = write_set(tmp_path / "other", lengths=(5, 21))
    refused = run("examples/lra/run.sh", "--no-such-flag", PREPARED=other, **settings)
    assert refused.returncode == 1 and "was trained with other settings" in refused.stderr and "> data " in refused.stderr


@pytest.mark.slow
def test_a_training_makes_json_and_a_second_call_redoes_nothing(tmp_path):
    folder = write_set(tmp_path / "set", lengths=(40, 80))
    places = {"PREPARED": folder, "RUNS": tmp_path / "runs", "RESULTS": tmp_path / "results"}
    settings = {**places, "TASK": "listops", "ATTENTION": "adaptive", "SIZE": "tiny", "SEED": 3, "VALIDATE_EVERY": 10}
    first, second = recipe("run.sh", **settings), recipe("run.sh", **settings)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "is trained, nothing to do" in second.stdout and "stands, nothing to do" in second.stdout
    result = json.loads((tmp_path / "results" / "listops" / "adaptive-seed3.json").read_text())
    assert (result["name"], result["task"], result["seed"], result["max_update"]) == ("adaptive", "listops", 3, 20)
    assert (result["model"]["attention"], result["model"]["connection"]) == ("momentum", "adaptive")
    valid, test = result["scores"]
    assert (valid["examples"], test["examples"]) == (COUNTS["dev"], COUNTS["test"])
    assert test["accuracy"] == pytest.approx(100 * test["correct"] / COUNTS["test"], abs=1e-4)
    assert result["data"]["test"]["cut"] > 0 and result["data"]["train"]["count"] == COUNTS["train"]
    best = max(result["training"]["curve"], key=lambda point: point.get("valid_accuracy", 0))
    assert best["valid_accuracy"] == pytest.approx(valid["accuracy"], abs=1e-3)
    assert result["protocol"]["full_updates"] == 5000 and result["protocol"]["full_max_positions"] == 2000
    assert str(tmp_path) not in json.dumps(result)


def test_a_task_without_data_is_said_and_the_others_go_on(tmp_path):
    write_set(tmp_path / "runs" / "listops", lengths=(16, 16))
    places = {"RUNS": tmp_path / "runs", "OUT": tmp_path / "out", "DATA": tmp_path / "none", "CALL_MINUTES": 1}
    made = recipe("gpu.sh", **places, TASKS="image listops", KINDS="momentum", MORE_KINDS="", SEEDS="1")
    assert f"DATA={tmp_path}/none/image: no such folder" in made.stderr
    assert "train_one: no time for 1 of 1; call again" in made.stdout
    assert made.returncode == 1 and "error: data: failed (see above)" in made.stderr


def test_no_set_is_made_before_the_trainings_turn_comes_and_failed_ones_hold_up_none(tmp_path):
    write_set(tmp_path / "runs" / "listops", lengths=(16, 16))
    places = {"RUNS": tmp_path / "runs", "OUT": tmp_path / "out", "CALL_MINUTES": 1}
    settings = {"TASKS": "listops image", "KINDS": "momentum", "MORE_KINDS": "", "SEEDS": "1", "STAGES": "data"}
    made = recipe("gpu.sh", **places, **settings, SIDE_BY_SIDE=1)
    assert (made.returncode, made.stdout) == (0, "data: image and what comes after it wait for 1 trainings of the tasks before\n")
    marker = tmp_path / "runs" / "gpu-paper" / "logs" / "train" / "listops-momentum-1.failed"
    marker.parent.mkdir(parents=True)
    marker.touch()
    made = recipe("gpu.sh", **places, **settings, SIDE_BY_SIDE=1)
    assert made.returncode == 1 and "error: DATA is not set" in made.stderr
    marker.unlink()
    log = tmp_path / "runs" / "paper" / "listops" / "momentum-seed1" / "train.log"
    log.parent.mkdir(parents=True)
    log.write_text("Stopping training due to num_updates: 5000 >= max_update: 5000\n")
    made = recipe("gpu.sh", **places, **settings, SIDE_BY_SIDE=1)
    assert made.returncode == 1 and "error: DATA is not set" in made.stderr


@pytest.mark.slow
def test_one_call_trains_scores_makes_the_table_and_goes_on_to_the_set_that_waited(tmp_path):
    write_set(tmp_path / "runs" / "image", lengths=(16, 16))
    places = {"RUNS": tmp_path / "runs", "OUT": tmp_path / "out", "SIZE": "tiny", "CALL_MINUTES": 20, "SIDE_BY_SIDE": 1}
    settings = {"TASKS": "image listops", "COUNTS": "8 4 4", "KINDS": "momentum", "MORE_KINDS": "", "SEEDS": "2", "MAX_UPDATE": 4}
    made = recipe("gpu.sh", **places, **settings)
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stdout.startswith("data: listops and what comes after it wait for 1 trainings of the tasks before\n")
    assert "2 of 2 results" in made.stdout
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| momentum | " in table and "4 of the protocol's 35,000 updates" in table
    listing = subprocess.run(["tar", "-tzf", tmp_path / "out" / "results.tar.gz"], capture_output=True, text=True).stdout
    assert {"./image/momentum-seed2.json", "./listops/momentum-seed2.json"} <= set(listing.split())
