"""Non-causal attention by the implementation that `kernel_choice` names, where it isn't torch's own operations."""

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import FeatureMap
from momentum_fairseq.ops.kernel_choice import kernel_for, map_where_needed
from momentum_fairseq.ops.momentum_weights import momentum_weights
from momentum_fairseq.ops.reference import recurrent_momentum_attention

Number = float | Tensor


def momentum_by_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: Number,
    step_size: Number,
    key_padding_mask: Tensor | None,
    eps: float,
    feature_map: FeatureMap | None,
) -> Tensor | None:
    """`momentum_attention` of checked arguments; None where torch's own operations are to compute it."""
    kernel = kernel_for(q, v, feature_map)
    if kernel == "torch":
        return None
    q, k, mapped = map_where_needed(q, k, feature_map, kernel)
    if kernel == "reference":
        numbers = {"momentum": momentum, "step_size": step_size}
        return recurrent_momentum_attention(q, k, v, key_padding_mask=key_padding_mask, eps=eps, causal=False, **numbers)
    from momentum_fairseq.ops.kernels.noncausal import attend  # only where triton is installed

    options = {"key_padding_mask": key_padding_mask, "eps": eps, "mapped": mapped}
    if isinstance(momentum, Tensor) or isinstance(step_size, Tensor):
        # float64: the gradients of β and γ are sums over all keys, which cancel.
        numbers = {"momentum": momentum, "step_size": step_size, "dtype": torch.float64, "device": v.device}
        weights = momentum_weights(k.shape[2], key_padding_mask=key_padding_mask, **numbers)
        return attend(q, k, v, weights=weights, **options)
    return attend(q, k, v, momentum=momentum, step_size=step_size, **options)


def weighted_by_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    key_padding_mask: Tensor | None,
    eps: float,
    feature_map: FeatureMap | None = None,
) -> Tensor | None:
    """`weighted_linear_attention`; None where torch's own operations are to compute it, as where weights meet the reference."""
    kernel = kernel_for(q, v, feature_map)
    if kernel == "torch" or (kernel == "reference" and weights is not None):
        return None
    q, k, mapped = map_where_needed(q, k, feature_map, kernel)
    if kernel == "reference":
        numbers = {"momentum": 0.0, "step_size": 1.0}
        return recurrent_momentum_attention(q, k, v, key_padding_mask=key_padding_mask, eps=eps, causal=False, **numbers)
    from momentum_fairseq.ops.kernels.noncausal import attend  # only where triton is installed

    return attend(q, k, v, weights=weights, key_padding_mask=key_padding_mask, eps=eps, mapped=mapped)
