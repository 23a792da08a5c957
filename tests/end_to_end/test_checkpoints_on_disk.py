"""Resuming, kills, full disks and bad checkpoints: the real command line."""

import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.planted import Planted

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def same(a: object, b: object) -> bool:
    """Bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def load(folder: Path) -> dict:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


def updates(folder: Path) -> int:
    return load(folder)["optimizer_history"][-1]["num_updates"]


@pytest.fixture(scope="module")
def begun(train, tmp_path_factory) -> Path:
    """A training stopped in the middle of its second epoch; don't write to it."""
    folder = tmp_path_factory.mktemp("begun")
    result = train(folder, 8, "--no-epoch-checkpoints")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def copy(begun, tmp_path) -> Path:
    """The same, to write to."""
    (tmp_path / "checkpoint_last.pt").write_bytes((begun / "checkpoint_last.pt").read_bytes())
    return tmp_path


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(train, begun, copy, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    for folder in (copy, whole):
        result = train(folder, 16, "--no-epoch-checkpoints")
        assert result.returncode == 0, result.stderr
    before, resumed, uninterrupted = load(begun), load(copy), load(whole)
    assert [s["optimizer_history"][-1]["num_updates"] for s in (before, resumed, uninterrupted)] == [8, 16, 16]
    for part in ("model", "last_optimizer_state"):
        assert same(resumed[part], uninterrupted[part])
        assert not same(before[part], resumed[part])
    assert resumed["last_optimizer_state"]["state"]


@pytest.mark.parametrize(("begins", "more"), [("resumed", []), ("fine-tuned", ["--ema-fp32"])])
def test_an_average_begins_with_the_parameters_of_a_checkpoint_without_one(train, begun, copy, begins, more):
    settings = ["--store-ema", "--ema-decay=1", *more]  # 1: it stays as it begins
    if begins == "fine-tuned":
        (copy / "checkpoint_last.pt").unlink()
        settings.append(f"--finetune-from-model={begun / 'checkpoint_last.pt'}")
    result = train(copy, 9 if begins == "resumed" else 1, "--no-epoch-checkpoints", *settings)
    assert result.returncode == 0, result.stderr
    assert "checkpoint_last.pt holds no moving average: it begins with the parameters there" in result.stdout + result.stderr
    after, expected = load(copy), load(begun)["model"]
    assert same(dict(after["extra_state"]["ema"]), dict(expected)) and not same(dict(after["model"]), dict(expected))
    again = train(copy, updates(copy) + 1, "--no-epoch-checkpoints", *settings)
    assert again.returncode == 0 and "holds no moving average" not in again.stdout + again.stderr, again.stderr
    assert same(dict(load(copy)["extra_state"]["ema"]), dict(expected))


KILL = """
import os, runpy, shutil, signal, sys
import torch
calls = 0
def die_in_the_middle(write):
    def half(source, to, *rest):
        global calls
        calls += 1
        if calls < {nth}:
            return write(source, to, *rest)
        whole = to + ".whole"
        write(source, whole)
        data = open(whole, "rb").read()
        os.remove(whole)
        with open(to, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return half
{module}.{name} = die_in_the_middle({module}.{name})
sys.argv[0] = "fairseq-train"
runpy.run_module("fairseq_cli.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("module", "name", "whole"), [("torch", "save", 10), ("shutil", "copyfile", 12)])
def test_kill_9_in_the_middle_of_saving_leaves_a_whole_checkpoint(train, copy, monkeypatch, module, name, whole):
    """The second write is killed, when half of its bytes are on disk; the restart goes on from the save before.

    Of the saves, at every second update, the one at 12 ends an epoch and is written without a copy.
    """
    script = copy / "killed.py"
    script.write_text(KILL.format(nth=2, module=module, name=name))
    real = subprocess.run

    def killed(line: list[str], **options) -> subprocess.CompletedProcess:
        return real([sys.executable, str(script), *line[1:]], **options)

    every = ["--save-interval-updates=2", "--keep-interval-updates=1", "--disable-validation", "--no-epoch-checkpoints"]
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", killed)
        result = train(copy, 16, *every)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert updates(copy) == whole
    assert list(copy.glob("*.part"))
    result = train(copy, 16, *every)
    assert result.returncode == 0, result.stderr
    assert f"@ {whole} updates" in result.stdout
    assert updates(copy) == 16


def test_a_full_disk_stops_the_training_and_leaves_the_old_checkpoint_whole(train, begun, copy):
    """Files may not grow beyond half of a checkpoint."""
    half = (begun / "checkpoint_last.pt").stat().st_size // 2
    result = train(copy, 12, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (half, half)))
    assert result.returncode != 0
    assert re.search(r"OSError: could not write .*\.pt \(is the disk full\?\)", result.stderr)
    assert same(load(copy)["model"], load(begun)["model"])
    assert [path.name for path in copy.iterdir()] == ["checkpoint_last.pt"]


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--heads=4"], "the checkpoint has heads=2; the model was built with heads=4"),
        (
            ["--attention=softmax", "--layers=3"],
            "the checkpoint has layers=2, attention=momentum; the model was built with layers=3, attention=softmax",
        ),
    ],
)
def test_resuming_with_another_architecture_is_refused_with_the_difference(train, begun, copy, flags, difference):
    result = train(copy, 12, *flags)
    assert result.returncode != 0
    assert difference in result.stderr
    assert "please ensure that the architectures match" in result.stderr
    assert same(load(copy)["model"], load(begun)["model"])


def test_a_checkpoint_with_a_planted_pickle_is_refused_and_its_code_not_run(train, fairseq, copy):
    state, mark = load(copy), copy / "ran"
    state["extra_state"]["planted"] = Planted(f"touch {mark}")
    torch.save(state, copy / "checkpoint_last.pt")
    path = f"--path={copy / 'checkpoint_last.pt'}"
    for result in (train(copy, 12), fairseq("generate", path, "--gen-subset=test", "--batch-size=7")):
        assert result.returncode != 0
        assert "Weights only load failed" in result.stderr
        assert not mark.exists()
    torch.load(copy / "checkpoint_last.pt", weights_only=False)  # the plant works where nobody looks
    assert mark.exists()


def test_a_truncated_checkpoint_is_an_error_and_is_not_written_over(train, copy):
    path = copy / "checkpoint_last.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = train(copy, 12)
    assert result.returncode != 0
    assert "PytorchStreamReader failed" in result.stderr
    assert [file.name for file in copy.iterdir()] == ["checkpoint_last.pt"]


def test_another_dictionary_is_refused_with_both_sizes(corpus, begun, tmp_path):
    shutil.copytree(corpus / "bin", tmp_path / "bin")
    dictionary = tmp_path / "bin" / "dict.tgt.txt"
    dictionary.write_text(dictionary.read_text() + "elsewhere 1\n")
    generate = [Path(sys.executable).with_name("fairseq-generate"), tmp_path / "bin", f"--user-dir={ROOT / 'momentum_fairseq'}"]
    options = ["--task=translation_nat", "--gen-subset=test", f"--path={begun / 'checkpoint_last.pt'}", "--cpu"]
    result = subprocess.run([*generate, *options], capture_output=True, text=True)
    assert result.returncode != 0
    assert re.search(r"target_embedding: the checkpoint's has \d+ rows, this model's \d+; use the data folder", result.stderr)


def test_a_translation_model_is_not_scored_as_a_classifier(begun, corpus, tmp_path):
    paths = [corpus / "bin", begun / "checkpoint_last.pt", tmp_path / "out.json"]
    result = subprocess.run([sys.executable, "scripts/score_lra.py", *paths, "--cpu"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode != 0
    assert result.stderr.endswith("checkpoint_last.pt is of the task translation_nat; this needs one of lra\n")
    assert not (tmp_path / "out.json").exists()
