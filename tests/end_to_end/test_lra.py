"""Long Range Arena through the real command line: a tiny set is learned, the test set counted whole, a training goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from tests.lra_sets import COUNTS, write_set

pytestmark = pytest.mark.slow

USER_DIR = Path(__file__).resolve().parents[2] / "momentum_fairseq"
MODEL = ["--arch=lra_classifier_listops", "--layers=1", "--embed-dim=16", "--ffn-dim=16", "--connection=adaptive"]
ADAM = ["--optimizer=adam", "--adam-betas=(0.9, 0.999)", "--lr=0.02"]
ONE_CYCLE = ["--lr-scheduler=polynomial_decay", "--warmup-updates=10", "--total-num-update=60"]
BEST = ["--best-checkpoint-metric=accuracy", "--maximize-best-checkpoint-metric", "--no-epoch-checkpoints"]


def fairseq(tool: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name(f"fairseq-{tool}"), *arguments]
    flags = [f"--user-dir={USER_DIR}", "--task=lra", "--cpu", "--num-workers=0", "--log-format=json", "--batch-size=8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, [*command, *flags])), capture_output=True, text=True, env=environment)


def train(data: Path, folder: Path, updates: int, *arguments: object) -> subprocess.CompletedProcess:
    """12 updates make an epoch."""
    length = [f"--max-update={updates}", "--log-interval=1", "--seed=1", "--lra-task=listops"]
    loss = ["--criterion=classification_loss", f"--save-dir={folder}"]
    return fairseq("train", data, *MODEL, *ADAM, *ONE_CYCLE, *BEST, *length, *loss, *arguments)


def logged(result: subprocess.CompletedProcess, kind: str) -> list[dict]:
    """The JSON that fairseq logs."""
    text = result.stdout + result.stderr
    return [json.loads(line.split(f"| {kind} | ")[1]) for line in text.splitlines() if f"| {kind} | {{" in line]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A whole training, with a checkpoint in the middle of its fourth epoch."""
    folder = tmp_path_factory.mktemp("whole")
    result = train(data, folder, 60, "--save-interval-updates=40")
    assert result.returncode == 0, result.stderr
    return folder, result


def test_it_learns_and_every_example_of_the_test_set_counts(data, trained):
    folder, result = trained
    assert float(logged(result, "valid")[-1]["valid_best_accuracy"]) > 90
    assert all(int(entry["valid_examples"]) == COUNTS["dev"] for entry in logged(result, "valid"))
    scored = fairseq("validate", data, f"--path={folder / 'checkpoint_best.pt'}", "--valid-subset=test")
    assert scored.returncode == 0, scored.stderr
    (found,) = logged(scored, "test")
    correct, accuracy = int(found["test_correct"]), float(found["test_accuracy"])
    assert int(found["test_examples"]) == COUNTS["test"]
    assert accuracy == pytest.approx(100 * correct / COUNTS["test"], abs=1e-3) and accuracy > 90


def test_the_learning_rate_is_one_cycle(trained):
    """As torch's OneCycleLR without its offsets: up over the warm-up, down to 0 at the last update."""
    rates = [float(entry["lr"]) for entry in logged(trained[1], "train_inner")]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1)
    cycle = OneCycleLR(optimizer, 0.02, total_steps=61, pct_start=11 / 61, anneal_strategy="linear", div_factor=1e9)
    expected = []
    for _ in range(60):
        optimizer.step()
        cycle.step()
        expected.append(cycle.get_last_lr()[0])
    assert rates == pytest.approx(expected, abs=1e-6)
    assert max(rates) == 0.02 and rates[-1] == 0


def test_a_resumed_training_equals_one_without_a_break_bit_for_bit(data, trained, tmp_path):
    whole, first = trained
    (tmp_path / "checkpoint_last.pt").write_bytes((whole / "checkpoint_4_40.pt").read_bytes())
    second = train(data, tmp_path, 60)
    assert second.returncode == 0, second.stderr
    assert [int(entry["num_updates"]) for entry in logged(second, "train_inner")] == list(range(41, 61))
    states = [torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"] for folder in (whole, tmp_path)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0] if name != "_extra_state")
    assert logged(first, "valid")[-1]["valid_loss"] == logged(second, "valid")[-1]["valid_loss"]
