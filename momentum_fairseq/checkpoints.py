"""Checkpoints that can't run code when loaded, and that are whole whenever the training is killed or the disk is full."""

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager


def allow_safe_loading() -> None:
    """Let torch's safe loader read fairseq's checkpoints: plain data, tensors, numbers in numpy arrays and
    `argparse.Namespace`, nothing that runs code.

    The arrays are the n-gram counts that --eval-bleu keeps in its meters.
    """
    rebuild = np.zeros(0).__reduce__()[0]  # where numpy keeps this function depends on its version
    number_types = [type(np.dtype(name)) for name in ("int32", "int64", "float32", "float64")]
    torch.serialization.add_safe_globals([argparse.Namespace, np.ndarray, np.dtype, rebuild, *number_types])


def save_whole_or_not_at_all() -> None:
    """Make fairseq write checkpoints under another name first, then rename, both when it saves and when it copies.

    fairseq saves one file and copies it to `checkpoint_last.pt` and `checkpoint_best.pt`; a kill or a full disk in the middle
    of a plain copy would leave half a checkpoint under the name that a restart reads. When saving fails it tries again behind
    what it has written already, which would give a whole name to a file that can't be read.
    """
    checkpoint_utils.torch_persistent_save = _save
    PathManager.copy = staticmethod(_copy)


def _save(obj: Any, filename: str, async_write: bool = False) -> None:
    if async_write:
        raise ValueError("--write-checkpoints-asynchronously: such a checkpoint may be half there, or not at all; leave it out")
    with _whole(filename) as part:
        torch.save(obj, part)


def _copy(src_path: str, dst_path: str, overwrite: bool = False) -> str:
    if not overwrite and os.path.exists(dst_path):
        raise FileExistsError(f"{dst_path} is there already")
    with _whole(dst_path) as part:
        shutil.copyfile(src_path, part)
    return dst_path


@contextmanager
def _whole(path: str) -> Iterator[str]:
    """A name to write to; afterwards the file gets its own name.

    Raises:
        OSError: the writing failed; what was written is removed.
    """
    part = f"{path}.part"
    try:
        yield part
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch gives a RuntimeError where the disk is full
        raise OSError(f"could not write {path} (is the disk full?): {error}") from error
    finally:
        if os.path.exists(part):
            os.remove(part)
