"""Several workers over gloo on a CPU, through train.sh: the same training as one, and an end for all where one is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

FLAGS = ["--dropout=0", "--connection=adaptive", "--log-format=json", "--log-interval=1", "--disable-validation"]


@pytest.fixture(scope="session")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as prepare_parallel.sh leaves one."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "data-bin").symlink_to(corpus / "bin")
    return folder


@pytest.fixture(scope="session")
def train(prepared: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start train.sh into a folder: a tiny model, 512 tokens an update, checkpoints every second update."""
    started = []

    def start(out: Path, **variables: object) -> subprocess.Popen:
        settings = {"DATA": prepared, "OUT": out, "ARCH": "momentum_nat_tiny", "DEVICE": "cpu", "VALIDATE_EVERY": 2}
        batch = {"MAX_TOKENS": 256, "TOTAL_TOKENS": 512, "MAX_UPDATE": 6, "WARMUP": 2, "MOMENTUM_ENV": sys.prefix}
        values = {**settings, **batch, "OMP_NUM_THREADS": 1, **variables}
        environment = {**os.environ, **{name: str(value) for name, value in values.items()}}
        command = ["bash", str(ROOT / "scripts" / "train.sh"), *FLAGS, "--source-lang=src", "--target-lang=tgt"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()  # does nothing where it has ended


def finish(process: subprocess.Popen) -> str:
    """What it printed, when it has ended well."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out


def losses(log: str) -> list[dict[str, str]]:
    """What each update logged, without what depends on the clock."""
    entries = [json.loads(line.split("| train_inner | ")[1]) for line in log.splitlines() if "| train_inner | " in line]
    clocked = {"wps", "ups", "train_wall", "wall"}
    return [{name: value for name, value in entry.items() if name not in clocked} for entry in entries]


def load(folder: Path) -> dict:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


def updates(folder: Path) -> int:
    return load(folder)["optimizer_history"][-1]["num_updates"]


def processes(folder: Path, *words: str) -> list[int]:
    """Those whose command line names the folder and all the words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if all(word in line for word in (str(folder), *words)):
            found.append(int(entry.parent.name))
    return found


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory) -> tuple[Path, str]:
    """A training by one worker, which accumulates two batches an update: its folder, its log."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, finish(train(folder))


def test_workers_on_two_machines_train_as_one_that_accumulates_two_batches(train, alone, tmp_path):
    """Bit for bit, since a sum of two doesn't depend on their order. Denoising is on: both workers draw the same steps, and
    each batch gets the same corruption, whoever has it."""
    place = {"NODES": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500 + os.getpid() % 10000}
    second = train(tmp_path, NODE_RANK=1, **place)
    log = finish(train(tmp_path, NODE_RANK=0, **place))
    finish(second)
    assert "training on 2 devices" in log
    assert len(losses(log)) == 6
    assert losses(log) == losses(alone[1])
    expected, found = load(alone[0])["model"], load(tmp_path)["model"]
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, found[name]), name


RUN = {"PROCESSES": 2, "MAX_UPDATE": 1000}


class Killed(NamedTuple):
    """A run of two workers of which one was killed after the first checkpoint."""

    folder: Path
    refused: str  # what a second run in the folder said meanwhile
    seconds: float  # until the run ended
    status: int
    err: str
    left: list[int]


@pytest.fixture(scope="module")
def killed(train, tmp_path_factory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    process = train(folder, **RUN)
    wait_for((folder / "checkpoint_last.pt").exists, process)
    _, refused = train(folder, **RUN).communicate(timeout=60)
    (worker,) = processes(folder, "--distributed-rank 1")
    os.kill(worker, signal.SIGKILL)
    start = time.monotonic()
    _, err = process.communicate(timeout=60)
    return Killed(folder, refused, time.monotonic() - start, process.returncode, err, processes(folder))


def test_a_killed_worker_ends_the_run_at_once_with_a_clear_message(killed):
    assert killed.status == 1
    assert killed.seconds < 15
    assert "worker 1 was killed by SIGKILL (out of memory?)" in killed.err
    assert f"The same command goes on from {killed.folder}/checkpoint_last.pt" in killed.err
    assert not killed.left


def test_a_folder_in_use_by_another_training_is_refused(killed):
    assert f"{killed.folder.resolve()}: another training is running there" in killed.refused


def test_after_a_kill_the_same_command_goes_on_and_workers_end_with_their_launcher(killed, train):
    reached = updates(killed.folder)
    assert 2 <= reached < 1000
    process = train(killed.folder, **RUN)
    wait_for(lambda: updates(killed.folder) > reached, process)
    process.kill()
    out, _ = process.communicate(timeout=10)  # to its end, which comes when the last worker has closed it
    assert f"@ {reached} updates" in out
    deadline = time.monotonic() + 10
    while processes(killed.folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
