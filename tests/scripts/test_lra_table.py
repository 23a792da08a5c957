"""Table 4 and the early checks, from results and logs made up for the purpose."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lra_table
import pytest
from common import train_log

Make = Callable[..., Path]
CURVE = [
    {"updates": 10, "loss": 2.0, "accuracy": 20.0},
    {"updates": 40, "loss": 1.5, "accuracy": 30.0},
    {"updates": 50, "loss": 1.0, "accuracy": 40.0, "valid_loss": 1.1, "valid_accuracy": 39.0},
    {"updates": 200, "loss": 0.5, "accuracy": 80.0},
]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a result; keyword arguments replace entries, `protocol` and `data` some of theirs."""

    def write(name: str, test: float = 50.0, *, task: str = "listops", seed: int = 1, **entries: Any) -> Path:
        protocol = {"batch_size": 16, "update_freq": [2], "lr": [0.001], "warmup_updates": 20, "max_positions": 2000}
        full = {"full_updates": 4000, "full_batch_size": 32, "full_max_positions": 2000, "truncate": False}
        result = {
            **{"name": name, "task": task, "date": "2026-01-02", "device": "a processor", "threads": 1},
            **{"git_revision": "abc", "training_revisions": ["abc"], "parameters": 1234, "updates": 190, "max_update": 200},
            "data": {"train": {"count": 96000}, "test": {"count": 2000, "cut": 0}, **entries.pop("data", {})},
            "protocol": {**protocol, **full, **entries.pop("protocol", {})},
            "seed": seed,
            "scores": [{"split": "valid", "accuracy": 45.0}, {"split": "test", "accuracy": test}],
            "training": {"curve": CURVE, "seconds_per_update": 0.25},
        }
        file = tmp_path / f"{task}-{name}-{seed}-{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps({**result, **entries}), encoding="utf-8")
        return file

    return write


@pytest.fixture
def print_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What lra_table.py prints."""

    def call(*files: Path) -> str:
        monkeypatch.setattr(sys, "argv", ["lra_table.py", *map(str, files)])
        lra_table.main()
        return capsys.readouterr().out

    return call


def cells(text: str, start: str) -> list[str]:
    """The cells of the first line of a table that begins with `start`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_our_accuracy_stands_beside_the_papers_and_what_was_not_run_is_empty(make, print_table):
    text = print_table(make("softmax", 36.5), make("nystrom", 30.0))
    assert cells(text, "softmax") == ["36.50 (37.10)", "(64.17)", "(80.71)", "(39.06)", "(72.48)", "(58.70)"]
    assert cells(text, "momentum")[0] == "(19.56)"
    assert cells(text, "nystrom") == ["30.00", "", "", "", "", ""]


def test_the_papers_rows_have_its_means(make, print_table):
    text = print_table(make("softmax"))
    means = {"linear": 54.67, "performer": 53.63, "reformer": 55.04, "linformer": 55.59, "momentum": 55.68, "adaptive": 56.04}
    assert {row: cells(text, row)[-1] for row in means} == {row: f"({mean})" for row, mean in means.items()}


def test_several_seeds_have_a_mean_and_a_standard_deviation(make, print_table):
    text = print_table(*(make("linear", accuracy, seed=seed) for seed, accuracy in enumerate((18.0, 19.0, 20.0), 1)))
    assert cells(text, "linear")[0] == "19.00 ± 1.00 (18.30)"
    assert "the standard deviation over them" in text


def test_the_mean_is_of_all_five_tasks_or_none(make, print_table):
    files = [make("momentum", 10.0 * i, task=task) for i, task in enumerate(lra_table.TASKS, 1)]
    assert cells(print_table(*files), "momentum")[-1] == "30.00 (55.68)"
    assert cells(print_table(*files[1:]), "momentum")[-1] == "(55.68)"
    text = print_table(*files, make("momentum", 30.0, seed=2))  # of each task's mean over its seeds
    assert cells(text, "momentum")[-1] == "32.00 (55.68)"


def test_the_early_checks_are_what_was_logged_last_at_each_share_of_the_updates(make, print_table):
    text = print_table(make("linear")).split("listops: loss")[1]
    assert text.startswith(", accuracy % after | 5 % (10) | 10 % (20) | 25 % (50) | 50 % (100) | 100 % (200) | dev |")
    # Nothing was logged between half a share and the share at 10 % and at 50 %.
    assert cells(text, "linear") == ["2.000, 20.0", "", "1.000, 40.0", "", "0.500, 80.0", "45.00", "0.25", "1,234"]


def test_the_distance_to_the_protocol_is_said(make, print_table):
    text = print_table(make("linear", data={"test": {"count": 2000, "cut": 7}}, protocol={"max_positions": 512}))
    assert "- listops: 200 of the protocol's 4,000 updates; 32 examples in a batch; 512 of the protocol's 2,000 tokens" in text
    assert "5 % of the examples that the protocol trains on" in text
    assert "test 2,000 examples (7 cut)" in text and "revisions abc" in text
    assert "; 100 % of the examples" in print_table(make("linear", max_update=4000))


def test_a_batch_is_as_large_as_it_was_at_last(make, print_table):
    text = print_table(make("linear", protocol={"update_freq": [1, 4]}))
    assert "64 of the protocol's 32 examples in a batch" in text


def test_a_training_that_was_stopped_early_is_named(make, print_table):
    text = print_table(make("linear"), make("momentum", training={"curve": CURVE[:-1]}))
    assert "- listops: momentum, seed 1: stopped after 50 updates" in text and "listops: linear" not in text
    assert "the test set scored, every example counted" in text
    assert "the test set scored once, every" in print_table(make("linear"))


def test_a_training_by_tokens_has_no_batch_to_compare(make, print_table):
    text = print_table(make("linear", protocol={"batch_size": None}))
    assert "200 of the protocol's 4,000 updates; batches by tokens; 2,000 tokens at most" in text
    assert "of the examples that the protocol trains on" not in text


def test_a_result_without_a_test_score_is_refused_by_its_name(make, print_table):
    file = make("linear", scores=[{"split": "valid", "accuracy": 45.0}])
    with pytest.raises(SystemExit, match=rf"{file.name}: the test set wasn't scored; score it again"):
        print_table(file)


def test_results_that_cannot_stand_in_one_table_are_refused(make, print_table):
    with pytest.raises(SystemExit, match=r"differ in protocol \(lr: \[0\.001\] and \[0\.1\]\); make a table for each"):
        print_table(make("linear"), make("softmax", protocol={"lr": [0.1]}))
    with pytest.raises(SystemExit, match=r"differ in max_update \(200 and 300\)"):
        print_table(make("linear"), make("softmax", max_update=300))
    with pytest.raises(SystemExit, match="differ in data"):
        print_table(make("linear"), make("linear", seed=2, data={"train": {"count": 5}}))
    with pytest.raises(SystemExit, match="are both of row linear, seed 1"):
        print_table(make("linear"), make("linear"))
    with pytest.raises(SystemExit, match=r"both of row linear, but differ in model \(layers: 2 and 3\)"):
        print_table(make("linear", model={"layers": 2}), make("linear", seed=2, model={"layers": 3}))
    print_table(make("linear"), make("linear", task="text", max_update=300))


def test_files_that_are_no_results_are_refused(make, print_table, tmp_path):
    file = tmp_path / "other.json"
    for content in ("", "[]", "{}"):
        file.write_text(content)
        with pytest.raises(SystemExit, match=r"other\.json: not a result of score_lra\.py"):
            print_table(file)
    with pytest.raises(SystemExit, match="task 'copy' is none of listops"):
        print_table(make("linear", task="copy"))
    with pytest.raises(SystemExit, match="No such file"):
        print_table(tmp_path / "none.json")


def test_a_log_gives_training_and_validation_by_updates_and_what_was_done_twice_counts_once(tmp_path):
    def training(updates: int, loss: float, speed: float) -> dict[str, Any]:
        return {"epoch": 1, "loss": str(loss), "accuracy": "50", "num_updates": str(updates), "ups": str(speed)}

    valid = {"epoch": 1, "valid_loss": "0.7", "valid_accuracy": "60", "valid_num_updates": "20"}
    whole = {"epoch": 1, "train_loss": "9", "train_num_updates": "20"}
    entries = [training(10, 3, 0), training(20, 2, 4), valid, training(30, 9, 4), training(30, 1, 2), whole]
    log = tmp_path / "train.log"
    log.write_text("\n".join(["begin training epoch 1", *map(json.dumps, entries)]) + "\n")
    assert train_log.read_curve(log) == [
        {"updates": 10, "loss": 3.0, "accuracy": 50.0},
        {"updates": 20, "loss": 2.0, "accuracy": 50.0, "valid_loss": 0.7, "valid_accuracy": 60.0},
        {"updates": 30, "loss": 1.0, "accuracy": 50.0},
    ]
    assert train_log.seconds_per_update(log) == 0.25
