"""fairseq's command line as a user has it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USER_DIR = ROOT / "momentum_fairseq"
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def fairseq(corpus: Path) -> Run:
    """Run `fairseq-<tool>` with the plug-in on the corpus."""

    def run(tool: str, *arguments: object, **options) -> subprocess.CompletedProcess:
        command = [Path(sys.executable).with_name(f"fairseq-{tool}"), corpus / "bin", f"--user-dir={USER_DIR}"]
        line = [*command, "--task=translation_nat", "--source-lang=src", "--target-lang=tgt", "--cpu", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(list(map(str, line)), capture_output=True, text=True, env=environment, **options)

    return run


@pytest.fixture(scope="session")
def train(fairseq: Run) -> Run:
    """Train a tiny model with adaptive momentum into a folder, for a number of updates; 6 make an epoch."""

    def run(folder: Path, updates: int, *arguments: object, **options) -> subprocess.CompletedProcess:
        model = ["--arch=momentum_nat_tiny", "--connection=adaptive", "--criterion=nat_refinement_loss"]
        optimizer = ["--optimizer=adam", "--adam-betas=(0.9, 0.98)", "--lr=0.003", "--max-tokens=400"]
        schedule = ["--lr-scheduler=polynomial_decay", "--total-num-update=500", f"--max-update={updates}"]
        output = [f"--save-dir={folder}", "--log-format=json", "--log-interval=1", "--num-workers=0", "--seed=1"]
        return fairseq("train", *model, *optimizer, *schedule, *output, *arguments, **options)

    return run
