"""A name that fairseq 0.12.3 takes from numpy, and that numpy 2 has no more."""

from types import SimpleNamespace

import numpy as np


def restore_numpy_names() -> None:
    """Give fairseq `numpy.compat.long`, without which `--sample-break-mode eos` of its language models can't be used, nor
    `fairseq-interactive` with one."""
    if not hasattr(np, "compat"):
        np.compat = SimpleNamespace(long=np.int64)
