"""Causal attention, and one step of it, by the implementation that `kernel_choice` names, where it isn't torch's own."""

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import FeatureMap
from momentum_fairseq.ops.kernel_choice import VARIABLE, kernel_for, map_where_needed
from momentum_fairseq.ops.reference import recurrent_momentum_attention

Number = float | Tensor
State = tuple[Tensor, Tensor | None, Tensor]


def causal_by_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: Number | None,
    step_size: Number = 1.0,
    key_padding_mask: Tensor | None,
    eps: float,
    initial_state: State | None,
    return_state: bool,
    feature_map: FeatureMap | None,
    bounds: Tensor | None = None,
    longest: int | None = None,
) -> tuple[Tensor, State | None] | None:
    """Output and, where wanted, the state s, m, z; None where torch's own operations are to compute them.

    Args as of `causal_momentum_attention`, checked; without momentum it is `causal_linear_attention`, and m is not read.
    `bounds` and `longest` as of `causal_attention_by_triton`, which alone takes them.

    Raises:
        ValueError: MOMENTUM_FAIRSEQ_KERNEL names what can't compute this.
    """
    kernel = kernel_for(q, v, feature_map)
    if kernel == "torch":
        return None
    q, k, mapped = map_where_needed(q, k, feature_map, kernel)
    more = {"step_size": step_size, "key_padding_mask": key_padding_mask, "eps": eps}
    if kernel == "triton":
        from momentum_fairseq.ops.kernels.causal import causal_attention_by_triton  # only where triton is installed

        state = {"initial_state": initial_state, "return_state": return_state, "bounds": bounds, "longest": longest}
        return causal_attention_by_triton(q, k, v, momentum=momentum, feature_map=not mapped, **state, **more)
    if initial_state is not None or return_state:
        raise ValueError(f"{VARIABLE}=reference: the reference takes and returns no state; set it to torch or leave it unset")
    return recurrent_momentum_attention(q, k, v, momentum=0.0 if momentum is None else momentum, **more), None


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
    if kernel_for(q, v, feature_map) != "triton" or takes_gradients(q, k, v, momentum, step_size, *(state or ())):
        return None
    from momentum_fairseq.ops.kernels.step import step  # only where triton is installed

    q, k, mapped = map_where_needed(q, k, feature_map, "triton")
    return step(q, k, v, state, momentum=momentum, step_size=step_size, eps=eps, in_place=in_place, mapped=mapped)


def takes_gradients(*values: Number | None) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in values)
