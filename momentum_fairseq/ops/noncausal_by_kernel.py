"""Non-causal attention, and one step of causal attention, by the implementation that `kernel_choice` names, where not torch's."""

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import FeatureMap, elu_plus_one
from momentum_fairseq.ops.kernel_choice import kernel_for
from momentum_fairseq.ops.momentum_weights import momentum_weights
from momentum_fairseq.ops.reference import recurrent_momentum_attention

Number = float | Tensor
State = tuple[Tensor, Tensor | None, Tensor]


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
    if kernel == "torch" or (kernel == "triton" and empty(q, k, v)):
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
    if kernel == "torch" or (kernel == "triton" and empty(q, k, v)) or (kernel == "reference" and weights is not None):
        return None
    q, k, mapped = map_where_needed(q, k, feature_map, kernel)
    if kernel == "reference":
        numbers = {"momentum": 0.0, "step_size": 1.0}
        return recurrent_momentum_attention(q, k, v, key_padding_mask=key_padding_mask, eps=eps, causal=False, **numbers)
    from momentum_fairseq.ops.kernels.noncausal import attend  # only where triton is installed

    return attend(q, k, v, weights=weights, key_padding_mask=key_padding_mask, eps=eps, mapped=mapped)


def step_by_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    *,
    momentum: Number | None,
    step_size: Number = 1.0,
    eps: float,
    in_place: bool,
    feature_map: FeatureMap | None,
) -> tuple[Tensor, State] | None:
    """Output and s, m, z; None where torch's own operations are to compute them, as wherever there are gradients to take.

    Args as of `momentum_attention_step`, checked; without momentum it is `linear_attention_step`, and m is None.
    """
    if kernel_for(q, v, feature_map) != "triton" or empty(q, v) or takes_gradients(q, k, v, momentum, step_size, *(state or ())):
        return None
    from momentum_fairseq.ops.kernels.step import step  # only where triton is installed

    q, k, mapped = map_where_needed(q, k, feature_map, "triton")
    return step(q, k, v, state, momentum=momentum, step_size=step_size, eps=eps, in_place=in_place, mapped=mapped)


def map_where_needed(q: Tensor, k: Tensor, feature_map: FeatureMap | None, kernel: str) -> tuple[Tensor, Tensor, bool]:
    """q and k, feature-mapped unless Triton's kernel takes elu + 1 on the way, and whether they are."""
    if kernel == "triton" and feature_map is elu_plus_one:
        return q, k, False
    return (q, k, True) if feature_map is None else (feature_map(q), feature_map(k), True)


def empty(*tensors: Tensor) -> bool:
    """Whether there is nothing to launch a kernel for."""
    return any(0 in x.shape for x in tensors)


def takes_gradients(*values: Number | None) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in values)
