"""What step-by-step decoding keeps of a source for its cross-attention, computed once a source.

Linear and momentum attention need of the source only Σ_j w_j k_j v_jᵀ and Σ_j k_j; where the source is shorter than the features
are wide, keys and weighted values are smaller and quicker to read.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.causal_chunks import in_full_precision, no_autocast
from momentum_fairseq.ops.linear_attention import quadratic_order_is_cheaper


class KeysAndValues(NamedTuple):
    """The source as it is, for kinds that read all of it: k `[B,H,S,D]`, v `[B,H,S,M]`, padding bool `[B,S]` or None."""

    k: Tensor
    v: Tensor
    padding: Tensor | None

    def reorder(self, order: Tensor) -> "KeysAndValues":
        """The memory of other rows of the batch, int64 `[B']`."""
        return KeysAndValues(*(None if x is None else x.index_select(0, order) for x in self))


class WeightedSource(NamedTuple):
    """Padding taken out, weights taken in, summed where that is cheaper.

    Attributes:
        k, v: `[B,H,S,D]` and weighted values `[B,H,S,M]`; or None and the sum Σ_j w_j k_j v_jᵀ `[B,H,D,M]`.
        z: None; or with the sum Σ_j k_j, `[B,H,D]`.
    """

    k: Tensor | None
    v: Tensor
    z: Tensor | None

    def reorder(self, order: Tensor) -> "WeightedSource":
        """The memory of other rows of the batch, int64 `[B']`."""
        return WeightedSource(*(None if x is None else x.index_select(0, order) for x in self))


def weighted_source(k: Tensor, v: Tensor, weights: Tensor | None, key_padding_mask: Tensor | None) -> WeightedSource:
    """Remember a source; about as many queries as keys are expected.

    Args:
        k, v: `[B,H,S,D]`, already feature-mapped, and `[B,H,S,M]`.
        weights: `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`, on the numerator only; None = 1.
        key_padding_mask: bool `[B,S]`, True = padding.
    """
    with no_autocast(k):
        _, k, v = in_full_precision(k, k, v, key_padding_mask)
        if weights is not None:
            v = v * weights.to(v.dtype).unsqueeze(-1)
        if quadratic_order_is_cheaper(k.shape[2], k.shape[2], k.shape[3], v.shape[3]):
            return WeightedSource(k, v, None)
        return WeightedSource(None, k.transpose(-1, -2) @ v, k.sum(-2))


def read_source(q: Tensor, source: WeightedSource, *, eps: float = 1e-6) -> Tensor:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps), not causal.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        source: of the same rows.
        eps: added to the normaliser.

    Returns:
        `[B,H,N,M]` in the source's dtype, float32 or better; zeros where a row has no real key.
    """
    with no_autocast(q):
        q = q.to(source.v.dtype)
        if source.k is None:
            normaliser = (source.z.unsqueeze(-2) @ q.transpose(-1, -2)).transpose(-1, -2).add_(eps)  # [B,H,N,1]
            return (q @ source.v) / normaliser
        scores = source.k @ q.transpose(-1, -2)  # [B,H,S,N]: to sum over keys is then to add rows
        normaliser = scores.sum(-2, keepdim=True).add_(eps)
        scores = scores / normaliser if torch.is_grad_enabled() else scores.div_(normaliser)
        return scores.transpose(-1, -2) @ source.v
