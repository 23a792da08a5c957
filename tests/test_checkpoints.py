"""Checkpoints: safe to load, and whole or not there."""

import argparse
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from tests.planted import Planted

OLD = {"weight": torch.arange(4.0)}
NEW = {"weight": torch.arange(5000.0)}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A whole checkpoint under the name that a restart reads."""
    torch.save(OLD, tmp_path / "checkpoint_last.pt")
    return tmp_path / "checkpoint_last.pt"


def whole(path: Path, expected: dict) -> bool:
    """The checkpoint is `expected`, and nothing else is in its folder."""
    same = torch.equal(torch.load(path)["weight"], expected["weight"])
    return same and [file.name for file in path.parent.iterdir()] == [path.name]


class Disk:
    """A disk that is full after `room` bytes, for `failures` writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, failures: int = 100) -> None:
        self.room, self.failures, self.save = room, failures, torch.save
        monkeypatch.setattr(torch, "save", self.write)
        monkeypatch.setattr(shutil, "copyfile", self.copy)

    def write(self, obj, to) -> None:
        if not self.failures:
            return self.save(obj, to)
        self.failures -= 1
        if isinstance(to, str):
            Path(to).write_bytes(b"x" * self.room)
        else:
            to.write(b"x" * self.room)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def copy(self, source: str, to: str) -> None:
        Path(to).write_bytes(Path(source).read_bytes()[: self.room])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_checkpoints_that_would_not_be_whole_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--write-checkpoints-asynchronously: .*leave it out"):
        checkpoint_utils.torch_persistent_save(NEW, str(tmp_path / "checkpoint.pt"), async_write=True)
    assert not list(tmp_path.iterdir())


def test_fairseq_saves_and_copies_through_the_plug_in(old):
    checkpoint_utils.torch_persistent_save(NEW, str(old))
    assert whole(old, NEW)
    assert PathManager.copy(str(old), str(old.with_name("checkpoint_best.pt")), overwrite=True)
    assert torch.equal(torch.load(old.with_name("checkpoint_best.pt"))["weight"], NEW["weight"])


def test_copying_over_a_file_needs_leave(old):
    source = old.with_name("checkpoint1.pt")
    torch.save(NEW, source)
    with pytest.raises(FileExistsError, match="checkpoint_last.pt is there already"):
        PathManager.copy(str(source), str(old))
    source.unlink()
    assert whole(old, OLD)


def test_a_full_disk_while_saving_is_an_error_and_leaves_the_old_checkpoint_whole(old, monkeypatch):
    Disk(monkeypatch, room=100)
    with pytest.raises(OSError, match=r"could not write .*\.pt \(is the disk full\?\): .*No space left"):
        checkpoint_utils.torch_persistent_save(NEW, str(old))
    assert whole(old, OLD)


def test_a_disk_that_is_full_for_a_moment_makes_no_unreadable_checkpoint(old, monkeypatch):
    """fairseq's own saving tries again behind the bytes of the first try."""
    Disk(monkeypatch, room=100, failures=1)
    with pytest.raises(OSError, match=r"could not write .*\.pt \(is the disk full\?\): .*No space left"):
        checkpoint_utils.torch_persistent_save(NEW, str(old))
    assert whole(old, OLD)


def test_a_full_disk_while_copying_is_an_error_and_leaves_the_old_checkpoint_whole(old, monkeypatch, tmp_path_factory):
    source = tmp_path_factory.mktemp("elsewhere") / "checkpoint1.pt"
    torch.save(NEW, source)
    Disk(monkeypatch, room=100)
    with pytest.raises(OSError, match=r"could not write .*\.pt \(is the disk full\?\): .*No space left"):
        PathManager.copy(str(source), str(old), overwrite=True)
    assert whole(old, OLD)


@pytest.mark.parametrize("way", ["save", "copy"])
def test_before_the_new_checkpoint_is_whole_the_old_one_has_the_name(old, monkeypatch, tmp_path_factory, way):
    """Whatever stops the process in the middle, nothing half-written has the checkpoint's name."""
    source = tmp_path_factory.mktemp("elsewhere") / "checkpoint1.pt"
    torch.save(NEW, source)
    real, seen = os.replace, []

    def watch(part: str, path: str) -> None:
        seen.append(torch.equal(torch.load(path)["weight"], OLD["weight"]))
        seen.append(torch.equal(torch.load(part)["weight"], NEW["weight"]))
        real(part, path)

    monkeypatch.setattr(os, "replace", watch)
    if way == "save":
        checkpoint_utils.torch_persistent_save(NEW, str(old))
    else:
        PathManager.copy(str(source), str(old), overwrite=True)
    assert seen == [True, True]
    assert whole(old, NEW)


def test_a_half_written_file_of_a_killed_run_is_written_anew(old):
    old.with_name("checkpoint_last.pt.part").write_bytes(b"half")
    checkpoint_utils.torch_persistent_save(NEW, str(old))
    assert whole(old, NEW)


def test_what_fairseq_keeps_in_checkpoints_loads_safely(tmp_path):
    state = {
        "args": argparse.Namespace(arch="momentum_nat_tiny", lr=[0.1]),
        **{name: np.array([3, 2], dtype=name) for name in ("int32", "int64", "float32", "float64")},
    }
    torch.save(state, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert loaded["args"] == state["args"]
    assert all(np.array_equal(loaded[name], numbers) for name, numbers in state.items() if name != "args")


@pytest.mark.parametrize("place", ["model", "args", "array"])
def test_a_planted_pickle_is_refused_and_its_code_not_run(tmp_path, place):
    mark, path = tmp_path / "ran", str(tmp_path / "checkpoint.pt")
    planted = Planted(f"touch {mark}")
    state = {"model": {}, "args": argparse.Namespace(), "array": np.zeros(2)}
    state[place] = {
        "model": planted,
        "args": argparse.Namespace(arch=planted),
        "array": np.array([planted, None], dtype=object),
    }[place]
    torch.save(state, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint_utils.load_checkpoint_to_cpu(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the plant works where nobody looks
    assert mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_an_error(tmp_path, share):
    path = tmp_path / "checkpoint.pt"
    torch.save(NEW, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises((RuntimeError, EOFError, OSError)):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
