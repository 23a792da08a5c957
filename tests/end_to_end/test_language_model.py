"""The language model through the real command line: fairseq's own task and fairseq-eval-lm, and the copy task."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

pytestmark = pytest.mark.slow

USER_DIR = Path(__file__).resolve().parents[2] / "momentum_fairseq"


def fairseq(tool: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name(f"fairseq-{tool}"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)


def train(folder: Path, updates: int, *arguments: object) -> subprocess.CompletedProcess:
    """Train a tiny model with adaptive momentum into a folder."""
    model = [f"--user-dir={USER_DIR}", "--arch=momentum_lm_tiny", "--connection=adaptive", "--cpu", "--num-workers=0"]
    schedule = ["--optimizer=radam", "--lr=0.005", "--batch-size=8", f"--max-update={updates}", "--seed=1"]
    output = [f"--save-dir={folder}", "--log-format=json", "--log-interval=1"]
    return fairseq("train", *arguments, *model, *schedule, *output)


def logged(result: subprocess.CompletedProcess, kind: str) -> list[dict]:
    """The JSON that fairseq logs."""
    return [json.loads(line.split(f"| {kind} | ")[1]) for line in result.stdout.splitlines() if f"| {kind} | {{" in line]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A binarised text in which a number is followed by the next one, mostly."""
    folder, random = tmp_path_factory.mktemp("text"), Random(1)
    for split, lines in (("train", 200), ("valid", 30)):
        rows = [[(start + i + (random.random() < 0.1)) % 10 for i in range(9)] for start in random.choices(range(10), k=lines)]
        (folder / split).write_text("\n".join(" ".join(f"n{n}" for n in row) for row in rows) + "\n")
    prefixes = [f"--{split}pref={folder / split}" for split in ("train", "valid")]
    made = fairseq("preprocess", "--only-source", *prefixes, f"--destdir={folder / 'bin'}")
    assert made.returncode == 0, made.stderr
    return folder / "bin"


def test_it_learns_with_fairseqs_task_and_scores_what_its_validation_says(text, tmp_path):
    task = [text, "--task=language_modeling", "--tokens-per-sample=40"]
    result = train(tmp_path, 20, *task, "--validate-interval-updates=10", "--no-epoch-checkpoints")
    assert result.returncode == 0, result.stderr
    first, *_, last = (float(v["valid_loss"]) for v in logged(result, "valid"))
    assert last < 0.8 * first
    model = [f"--path={tmp_path / 'checkpoint_last.pt'}", "--gen-subset=valid", f"--user-dir={USER_DIR}", "--cpu"]
    losses = []
    for window in (0, 20):
        scored = fairseq("eval-lm", *task, *model, f"--context-window={window}")
        assert scored.returncode == 0, scored.stderr
        losses.append(float(re.search(r"Loss \(base 2\): ([\d.]+)", scored.stdout + scored.stderr)[1]))
    assert losses[0] == pytest.approx(last, abs=2e-3)
    assert losses[1] != losses[0]


def test_a_resumed_training_of_the_copy_task_equals_one_without_a_break_bit_for_bit(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    task = ["--task=copy", "--tokens-per-sample=12", "--train-sequences=32", "--valid-sequences=9", "--save-interval-updates=6"]
    loss = ["--criterion=label_smoothed_cross_entropy", "--label-smoothing=0", "--report-accuracy"]
    first = train(whole, 10, *task, *loss)  # four updates make an epoch
    assert first.returncode == 0, first.stderr
    assert {"accuracy", "loss"} <= logged(first, "train_inner")[0].keys()
    resumed.mkdir()
    (resumed / "checkpoint_last.pt").write_bytes((whole / "checkpoint_2_6.pt").read_bytes())
    second = train(resumed, 10, *task, *loss)
    assert second.returncode == 0, second.stderr
    assert [e["num_updates"] for e in logged(second, "train_inner")] == ["7", "8", "9", "10"]
    states = [torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"] for folder in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0] if name != "_extra_state")
    assert logged(first, "valid")[-1]["valid_loss"] == logged(second, "valid")[-1]["valid_loss"]
