"""Reading fairseq's checkpoints without a task or a model."""

from pathlib import Path
from typing import Any

import torch

import momentum_fairseq  # noqa: F401  (lets torch's safe loader read fairseq's checkpoints, and saves them whole)


def load_checkpoint(path: Path, part: str) -> dict[str, Any]:
    """A checkpoint on the CPU, by torch's safe loading; tensors are read from the file as they are used.

    Args:
        part: an entry that it must have, itself a dictionary: "model", "extra_state".

    Raises:
        SystemExit: no such file, or one that isn't a whole checkpoint of fairseq or holds code to run.
    """
    if not path.is_file():
        raise SystemExit(f"error: {path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint[part].items()
    except Exception as error:
        raise SystemExit(f"error: {path}: not a checkpoint of fairseq that loads safely ({type(error).__name__})") from error
    return checkpoint
