"""Positions: sinusoids (Vaswani et al. 2017, section 3.5), or learned."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(length: int, dim: int) -> Tensor:
    """sin and cos of position / 10000^(2i/dim), float32 `[length, dim]`; an odd `dim` has one sine more than cosines."""
    rates = torch.exp(torch.arange(0, dim, 2).double() * (-math.log(10000.0) / dim))
    angles = torch.arange(length).double()[:, None] * rates  # [length, ceil(dim / 2)]
    table = torch.empty(length, dim, dtype=torch.float64)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()[:, : dim // 2]
    return table.float()


class Positions(nn.Module):
    """A table `[max_length, C]`, a row for each position; which numbers it holds is the subclasses' business."""

    table: Tensor

    def forward(self, length: int) -> Tensor:
        """The first `length` positions `[length, C]`; ValueError beyond the table."""
        if length > len(self.table):
            raise ValueError(f"{length} positions asked for, but the model was built for {len(self.table)}")
        return self.table[:length]

    def of_real_tokens(self, padding_mask: Tensor, first: int = 0) -> Tensor:
        """bool `[B,N]`, True = padding on either side → `[B,N−first,C]` of the tokens from column `first` on, counted from 0 at
        each sentence's first real token.
        """
        positions = ((~padding_mask).cumsum(1) - 1).clamp(min=0)
        return F.embedding(positions[:, first:], self(padding_mask.shape[1]))


class SinusoidalPositions(Positions):
    """A table of sinusoids, computed once and not saved with the model.

    Args:
        max_length: positions in the table; `dim`: features.
    """

    def __init__(self, max_length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("table", sinusoids(max_length, dim), persistent=False)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        table = sinusoids(*self.table.shape)  # where the model was built on `meta` there are no numbers yet
        self.table = table.to(self.table.dtype) if self.table.is_meta else self.table.copy_(table)


class LearnedPositions(Positions):
    """A table that is learned, from N(0, `std`²) on.

    Args:
        max_length: positions in the table; `dim`: features.
    """

    def __init__(self, max_length: int, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(max_length, dim).normal_(std=std))
