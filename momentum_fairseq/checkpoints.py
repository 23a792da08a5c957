"""Checkpoints that can't run code when loaded, and that are whole whenever the training is killed."""

import argparse
import os
import shutil

import torch
from fairseq.file_io import PathManager


def allow_safe_loading() -> None:
    """Let torch's safe loader read fairseq's checkpoints: plain data, tensors and `argparse.Namespace`, nothing that runs code."""
    torch.serialization.add_safe_globals([argparse.Namespace])


def copy_whole_or_not_at_all() -> None:
    """Make fairseq copy checkpoints under another name first, then rename.

    fairseq saves one file safely and copies it to `checkpoint_last.pt` and `checkpoint_best.pt`; a kill or a full disk in the
    middle of a plain copy would leave half a checkpoint under the name that a restart reads.
    """
    PathManager.copy = staticmethod(_copy)


def _copy(src_path: str, dst_path: str, overwrite: bool = False) -> str:
    if not overwrite and os.path.exists(dst_path):
        raise FileExistsError(f"{dst_path} is there already")
    part = f"{dst_path}.part"
    try:
        shutil.copyfile(src_path, part)
        os.replace(part, dst_path)
    finally:
        if os.path.exists(part):
            os.remove(part)
    return dst_path
