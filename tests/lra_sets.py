"""Tiny labelled sets as the task `lra` reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from momentum_fairseq.data.labelled_sequences import SequenceWriter

COUNTS = {"train": 96, "dev": 21, "test": 37}  # 21, 37: no multiples of 8, fairseq's batch size unit


def write_set(
    folder: Path,
    *,
    classes: int = 3,
    vocabulary: int = 9,
    lengths: tuple[int, int] = (5, 20),
    towers: int = 1,
    **facts: Any,
) -> Path:
    """Sequences whose label is the token that half of their positions hold or more, and 0 is one of the tokens.

    In a pair both have it. `facts` go into meta.json.
    """
    random = np.random.default_rng(1)
    writer = SequenceWriter(folder, vocabulary, classes, towers)
    for split, count in COUNTS.items():
        labels = random.integers(0, classes, count)
        parts = []
        for _ in range(towers):
            sizes = random.integers(lengths[0], lengths[1] + 1, count)
            tokens = random.integers(0, vocabulary, sizes.sum())
            chosen = random.random(sizes.sum()) < 0.5
            tokens[chosen] = np.repeat(labels, sizes)[chosen]
            parts.append((tokens, sizes))
        writer.write(split, labels, *parts)
    writer.finish(**facts)
    return folder
