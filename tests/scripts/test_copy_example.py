"""The recipe of the copy task: a training, the figure of several, what it refuses."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import plot_copy
import pytest

from tests.scripts.commands import run


def recipe(**variables: object) -> CompletedProcess[str]:
    return run("examples/copy/run.sh", **{"DEVICE": "cpu", **variables})


def write_log(folder: Path, name: str, rows: list[tuple]) -> Path:
    """A log with (updates, loss, accuracy, updates a second) in each row."""
    keys = ("num_updates", "loss", "accuracy", "ups")
    path = folder / name / "train.log"
    path.parent.mkdir(parents=True)
    entries = [{"epoch": 1, **{k: str(v) for k, v in zip(keys, row, strict=True)}} for row in rows]
    others = [{"epoch": 1, f"{kind}_loss": "9", f"{kind}_num_updates": "10"} for kind in ("valid", "train")]
    path.write_text("\n".join(["begin training epoch 1", *map(json.dumps, [*entries, *others])]) + "\n")
    return path


def test_what_a_stopped_training_logged_twice_counts_once_and_its_seconds_add_up(tmp_path):
    before, after = [(10, 4.0, 10, 0), (20, 3.0, 20, 2.0)], [(20, 3.1, 21, 2.5), (30, 2.0, 30, 5.0), (40, 2.0, 30, 1.0)]
    training = plot_copy.read(write_log(tmp_path, "linear-seed3", before + after))
    assert (training.method, training.seed, training.milliseconds) == ("linear", 3, 400)
    assert training.points == [(10, 4, 4.0, 10), (20, 8, 3.1, 21), (30, 10, 2.0, 30), (40, 20, 2.0, 30)]


def test_curves_are_means_of_the_seeds_where_all_have_one(tmp_path):
    first = plot_copy.read(write_log(tmp_path, "linear-seed1", [(10, 4.0, 10, 2), (20, 3.0, 20, 2), (30, 1, 1, 2)]))
    second = plot_copy.read(write_log(tmp_path, "linear-seed2", [(10, 2.0, 30, 4), (20, 2.0, 40, 4)]))
    assert plot_copy.averaged([first, second]) == [(10, 3.75, 3.0, 20), (20, 7.5, 2.5, 30)]
    rows = plot_copy.table({"linear": [first, second], "momentum": [first]}).splitlines()
    assert rows[2] == "| linear | 2 | 20 | 2.500 | 3.000, 2.000 | 30.0 | 375.0 | 1.00 |"
    assert rows[3] == "| momentum | 1 | 30 | 1.000 | 1.000 | 1.0 | 500.0 | 1.33 |"


def test_the_curves_say_what_made_them_and_what_an_older_training_did_not_note_is_none(tmp_path):
    log = write_log(tmp_path / "runs", "linear-seed1", [(10, 4.0, 10, 2)])
    write_log(tmp_path / "runs", "linear-seed2", [(10, 4.0, 10, 2)])
    (log.parent / "revision.txt").write_text("abc\ndef\n")
    (log.parent / "command.txt").write_text("fairseq-train --save-dir /some/where/run --log-file a\\ b")
    made = run("scripts/plot_copy.py", tmp_path / "runs", tmp_path / "results")
    assert made.returncode == 0, made.stderr
    record = json.loads((tmp_path / "results" / "curves.json").read_text())
    assert record["command"] == "python scripts/plot_copy.py .../runs .../results"
    assert record.keys() >= {"date", "git_revision", "device", "threads", "torch", "python"}
    linear = record["methods"]["linear"]
    assert linear["training_commands"] == ["fairseq-train --save-dir .../run --log-file 'a b'", None]
    assert linear["training_revisions"] == [["abc", "def"], []]


def test_logs_that_tell_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="other-seed1: the name must be <METHOD>-seed<SEED>, with one of the methods softmax"):
        plot_copy.read(write_log(tmp_path, "other-seed1", [(1, 4.0, 1, 2)]))
    refused = run("scripts/plot_copy.py", tmp_path, tmp_path / "out")
    assert refused.returncode == 1 and refused.stderr.startswith("plot_copy.py: error: ") and "other-seed1: the" in refused.stderr
    with pytest.raises(ValueError, match="no loss and speed in it; the training stopped before --log-interval"):
        plot_copy.read(write_log(tmp_path, "linear-seed1", []))


def test_wrong_settings_are_named():
    for name, value, message in (
        ("METHOD", "momentum other", "METHOD=other: must be softmax, linear"),
        ("SIZE", "huge", "SIZE=huge: must be paper, small or tiny"),
        ("SEED", "1 x", "SEED=1 x: must be whole numbers"),
        ("DEVICE", "tpu", "DEVICE=tpu: must be cpu, cuda or auto"),
        ("MAX_UPDATE", "0", "MAX_UPDATE=0: must be a whole number, at least 1"),
    ):
        result = recipe(**{name: value})
        assert result.returncode != 0 and message in result.stderr


@pytest.mark.slow
def test_a_training_makes_the_figure_and_a_second_call_trains_nothing(tmp_path):
    places = {"RUNS": tmp_path / "runs", "RESULTS": tmp_path / "results", "SIZE": "tiny", "METHOD": "adaptive", "SEED": 2}
    first, second = recipe(**places), recipe(**places)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "adaptive-seed2 is trained, nothing to do" in second.stdout
    record = json.loads((tmp_path / "results" / "curves.json").read_text())
    adaptive = record["methods"]["adaptive"]
    assert adaptive["seeds"] == [2]
    assert [point["updates"] for point in adaptive["points"]] == [5, 10, 15, 20]
    (command,), (revisions,) = adaptive["training_commands"], adaptive["training_revisions"]
    assert command.startswith("fairseq-train --user-dir momentum_fairseq --task copy") and "--connection adaptive" in command
    assert str(tmp_path) not in json.dumps(record) and revisions == [record["git_revision"]]
    log = (tmp_path / "runs" / "tiny" / "adaptive-seed2" / "train.log").read_text()
    assert '"num_updates": "5", "lr": "0.001"' in log and '"num_updates": "20", "lr": "0.0001"' in log
    assert (tmp_path / "results" / "curves.png").stat().st_size > 1000
    assert (tmp_path / "results" / "table.md").read_text() in second.stdout
