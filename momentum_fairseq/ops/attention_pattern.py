"""What an attention makes of its values, computed once where queries and keys stay the same: a linear map over positions.

Positional attention has the same queries and keys in every refinement step (Gu et al. 2018; Lee et al. 2018, section 4).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import checked_eps
from momentum_fairseq.ops.contraction_order import quadratic_order_is_cheaper
from momentum_fairseq.ops.feature_maps import ProductMap
from momentum_fairseq.ops.precision import in_full_precision, no_autocast


class QueriesAndKeys(NamedTuple):
    """Both as they are, for kinds that have no smaller form: q `[B,H,N,D]`, k `[B,H,S,D]`, padding bool `[B,S]` or None.

    One row serves the whole batch.
    """

    q: Tensor
    k: Tensor
    padding: Tensor | None

    def reorder(self, order: Tensor) -> "QueriesAndKeys":
        """The pattern of other rows of the batch, int64 `[B']`."""
        return QueriesAndKeys(*(None if x is None else rows(x, order) for x in self))


class AttentionPattern(NamedTuple):
    """Normalised weights of every value in every output; padding weighs nothing. One row serves the whole batch.

    Attributes:
        left: `[B,H,N,S]`; or, in two factors where those are smaller, `[B,H,N,D]`.
        right: None; or `[B,H,D,S]`.
    """

    left: Tensor
    right: Tensor | None

    def reorder(self, order: Tensor) -> "AttentionPattern":
        """The pattern of other rows of the batch, int64 `[B']`."""
        return AttentionPattern(*(None if x is None else rows(x, order) for x in self))


def linear_pattern(
    q: Tensor, k: Tensor, weights: Tensor | None, key_padding_mask: Tensor | None, *, eps: float = 1e-6
) -> AttentionPattern:
    """w_j q_i·k_j / (Σ_j q_i·k_j + eps), as `weighted_linear_attention` weighs the values.

    Args:
        q, k: `[B,H,N,D]` and `[B,H,S,D]`, already feature-mapped, finite at padding; B may be 1 where the mask has more rows.
        weights: `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`, on the numerator only; None = 1.
        key_padding_mask: bool `[B,S]`, True = padding.
        eps: added to the normaliser, not negative.

    Raises:
        ValueError: eps < 0.
    """
    eps = checked_eps(eps)
    with no_autocast(q):
        if quadratic_order_is_cheaper(q.shape[2], k.shape[2], q.shape[3], q.shape[3]):
            q, k, _ = in_full_precision(q, k, k)
            return pattern_of_scores(q @ k.transpose(-1, -2), weights, key_padding_mask, eps)
        q, k, _ = in_full_precision(q, k, k, key_padding_mask)
        q = q / (q @ k.sum(-2, keepdim=True).transpose(-1, -2) + eps)
        right = (k if weights is None else k * weights.to(k.dtype).unsqueeze(-1)).transpose(-1, -2)
        return AttentionPattern(q, right)


def product_pattern(
    q: Tensor, k: Tensor, weights: Tensor | None, key_padding_mask: Tensor | None, product_map: ProductMap, *, eps: float = 1e-6
) -> AttentionPattern:
    """`linear_pattern` of φ(q) and φ(k), through q·k: always `[B,H,N,S]`."""
    eps = checked_eps(eps)
    with no_autocast(q):
        q, k, _ = in_full_precision(q, k, k)
        scores = product_map.of_products(q @ k.transpose(-1, -2), q.shape[3])
        return pattern_of_scores(scores, weights, key_padding_mask, eps)


def pattern_of_scores(
    scores: Tensor, weights: Tensor | None, key_padding_mask: Tensor | None, eps: float
) -> AttentionPattern:
    """The pattern of φ(q)·φ(k) `[B,H,N,S]`, or of one row of them for all rows of the mask: its columns are smaller than keys."""
    if key_padding_mask is not None:
        scores = torch.where(key_padding_mask[:, None, None, :], scores.new_zeros(()), scores)
    weighted = scores if weights is None else scores * weights.to(scores.dtype).unsqueeze(-2)
    return AttentionPattern(weighted / (scores.sum(-1, keepdim=True) + eps), None)


def softmax_pattern(q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> AttentionPattern:
    """softmax(q kᵀ / √D) `[B,H,N,S]` over the real keys, float32 or better; zeros where a row has none.

    Args:
        q, k: `[B,H,N,D]` and `[B,H,S,D]`, not feature-mapped; B may be 1 where the mask has more rows.
        key_padding_mask: bool `[B,S]`, True = padding.
    """
    with no_autocast(q):
        dtype = torch.promote_types(q.dtype, torch.float32)
        scores = (q.to(dtype) / math.sqrt(q.shape[3])) @ k.to(dtype).transpose(-1, -2)
        if key_padding_mask is None:
            return AttentionPattern(scores.softmax(-1), None)
        padding = key_padding_mask[:, None, None, :]
        weights = scores.masked_fill(padding, torch.finfo(dtype).min).softmax(-1)
        return AttentionPattern(weights.masked_fill(padding, 0), None)


def read_values(v: Tensor, pattern: AttentionPattern) -> Tensor:
    """Values `[B,H,S,M]`, finite at padding → `[B,H,N,M]` in v's dtype."""
    with no_autocast(v):
        out = v.to(pattern.left.dtype)
        if pattern.right is not None:
            out = pattern.right @ out
        return (pattern.left @ out).to(v.dtype)


def rows(x: Tensor, order: Tensor) -> Tensor:
    """x of other rows of the batch; as it is where one row serves all."""
    return x if x.shape[0] == 1 else x.index_select(0, order)
