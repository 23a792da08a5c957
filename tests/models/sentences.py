"""Sentences of random words, padded on either side."""

import torch
import torch.nn.functional as F
from torch import Tensor

PAD, EOS = 1, 2


def words(*lengths: int, seed: int = 5) -> list[Tensor]:
    """int64 `[length]` each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 44, (length,), generator=generator) for length in lengths]


def sources(*lengths: int) -> list[Tensor]:
    """Sentences with EOS behind; `lengths` count the words."""
    return [F.pad(sentence, (0, 1), value=EOS) for sentence in words(*lengths)]


def pad(sentences: list[Tensor], width: int, left: bool) -> Tensor:
    """int64 `[B, width]`."""
    rows = [F.pad(s, (width - len(s), 0) if left else (0, width - len(s)), value=PAD) for s in sentences]
    return torch.stack(rows)
