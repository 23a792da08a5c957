"""Non-causal attention, and one step of causal attention, by the implementation that `kernel_choice` names, where not torch's."""

import torch
from torch import Tensor

from momentum_fairseq.ops.kernel_choice import kernel_for
from momentum_fairseq.ops.momentum_weights import momentum_weights
from momentum_fairseq.ops.reference import recurrent_momentum_attention

Number = float | Tensor
State = tuple[Tensor, Tensor | None, Tensor]


def momentum_by_kernel(
    q: Tensor, k: Tensor, v: Tensor, *, momentum: Number, step_size: Number, key_padding_mask: Tensor | None, eps: float
) -> Tensor | None:
    """`momentum_attention` of checked arguments; None where torch's own operations are to compute it."""
    kernel = kernel_for(q, v)
    if kernel == "reference":
        numbers = {"momentum": momentum, "step_size": step_size}
        return recurrent_momentum_attention(q, k, v, key_padding_mask=key_padding_mask, eps=eps, causal=False, **numbers)
    if kernel == "torch" or empty(q, v, k):
        return None
    from momentum_fairseq.ops.kernels.noncausal import attend  # only where triton is installed

    if isinstance(momentum, Tensor) or isinstance(step_size, Tensor):
        # float64: the gradients of β and γ are sums over all keys, which cancel.
        numbers = {"momentum": momentum, "step_size": step_size, "dtype": torch.float64, "device": v.device}
        weights = momentum_weights(k.shape[2], key_padding_mask=key_padding_mask, **numbers)
        return attend(q, k, v, weights=weights, key_padding_mask=key_padding_mask, eps=eps)
    return attend(q, k, v, momentum=momentum, step_size=step_size, key_padding_mask=key_padding_mask, eps=eps)


def weighted_by_kernel(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, key_padding_mask: Tensor | None, eps: float
) -> Tensor | None:
    """`weighted_linear_attention`; None where torch's own operations are to compute it, as for weights of the reference."""
    kernel = kernel_for(q, v)
    if kernel == "reference" and weights is None:
        numbers = {"momentum": 0.0, "step_size": 1.0}
        return recurrent_momentum_attention(q, k, v, key_padding_mask=key_padding_mask, eps=eps, causal=False, **numbers)
    if kernel != "triton" or empty(q, v, k):
        return None
    from momentum_fairseq.ops.kernels.noncausal import attend  # only where triton is installed

    return attend(q, k, v, weights=weights, key_padding_mask=key_padding_mask, eps=eps)


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
) -> tuple[Tensor, State] | None:
    """Output and s, m, z; None where torch's own operations are to compute them, as wherever there are gradients to take.

    Args as of `momentum_attention_step`, checked; without momentum it is `linear_attention_step`, and m is None.
    """
    if kernel_for(q, v) != "triton" or empty(q, v) or takes_gradients(q, k, v, momentum, step_size, *(state or ())):
        return None
    from momentum_fairseq.ops.kernels.step import step  # only where triton is installed

    return step(q, k, v, state, momentum=momentum, step_size=step_size, eps=eps, in_place=in_place)


def empty(*tensors: Tensor) -> bool:
    """Whether there is nothing to launch a kernel for."""
    return any(0 in x.shape for x in tensors)


def takes_gradients(*values: Number | None) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in values)
