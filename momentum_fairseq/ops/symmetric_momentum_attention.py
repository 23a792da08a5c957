"""Momentum attention read in both directions and averaged: Eq. 14 of Nguyen et al., MSML 2022, damps the sentence's end only."""

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import check_momentum, check_shapes, checked_eps
from momentum_fairseq.ops.feature_maps import FeatureMap
from momentum_fairseq.ops.linear_attention import weighted_linear_attention
from momentum_fairseq.ops.momentum_weights import momentum_weights


def symmetric_momentum_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
    feature_map: FeatureMap | None = None,
) -> Tensor:
    """The mean of `momentum_attention` over the sentence and over the sentence reversed.

        o_i = Σ_j γ (w_{N−j} + w_{j−1}) / 2 · (q_i·k_j) v_j / (Σ_j q_i·k_j + eps)        w_d = (1 − β^{d+1}) / (1 − β)

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        k: keys `[B,H,S,D]`, already feature-mapped.
        v: values `[B,H,S,M]`.
        momentum: β in [0, 1), or a tensor `[H]`.
        step_size: γ > 0, or a tensor `[H]`.
        key_padding_mask: bool `[B,S]`, True = padding, on either side.
        eps: added to the normaliser, not negative.
        feature_map: φ, to take of q and k first, which are then not yet feature-mapped; a kernel takes elu + 1 on the way.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes, dtypes or devices that disagree; eps < 0; β outside [0, 1) or γ <= 0, numbers or tensors
            (but on a GPU).
    """
    check_shapes(q, k, v, key_padding_mask)
    check_momentum(momentum, step_size, q.shape[1])
    eps = checked_eps(eps)
    dtype = torch.promote_types(v.dtype, torch.float32)
    weights = symmetric_momentum_weights(k.shape[2], momentum, step_size, key_padding_mask, dtype=dtype, device=v.device)
    return weighted_linear_attention(q, k, v, weights, key_padding_mask, eps, feature_map)


def symmetric_momentum_weights(
    keys: int,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The mean of `momentum_weights` of the keys and of the keys reversed, in the same shapes."""
    masks = (key_padding_mask, None if key_padding_mask is None else key_padding_mask.flip(-1))
    forwards, backwards = (momentum_weights(keys, momentum, step_size, mask, dtype=dtype, device=device) for mask in masks)
    return (forwards + backwards.flip(-1)) / 2
