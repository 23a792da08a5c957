"""Non-causal linear and momentum attention in Triton, as one differentiable op, in the cheaper order of products."""

from typing import Any

import torch
from torch import Tensor

from momentum_fairseq.ops.kernels.causal import check_one_device
from momentum_fairseq.ops.kernels.noncausal_launches import (
    Problem,
    launch_linear,
    launch_linear_gradients,
    launch_quadratic,
    launch_quadratic_gradients,
    quadratic,
)
from momentum_fairseq.ops.kernels.tiles import rows_contiguous


@torch.library.custom_op("momentum_fairseq::weighted_attention", mutates_args=())
def weighted_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    padding: Tensor | None,
    query_bounds: Tensor | None,
    key_bounds: Tensor | None,
    most_queries: int,
    most_keys: int,
    momentum: float,
    step_size: float,
    eps: float,
    mapped: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps), of any strides; nothing may be empty.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`; float32, bfloat16 or float16.
        weights: float32 `[B,H,S]`; None = those of momentum attention (Eq. 14).
        padding: bool `[B,S]`, True = padding.
        query_bounds, key_bounds: `[n+1]` each: B is 1, and n sequences lie one after the other; None = there is one a row.
        most_queries, most_keys: no sequence has more.
        momentum, step_size: β and γ where there are no weights; 0 and 1 make linear attention.
        mapped: whether q and k are feature-mapped; elu + 1 is applied to them if not.

    Returns:
        `[B,H,N,M]` in v's dtype, lying in memory as `[B,N,H,M]`; and for the gradients, float32, 1 / (Σ_j q_i·k_j + eps)
        `[B,H,N]`, Σ_j w_j k_j v_jᵀ `[n,H,D,M]` and Σ_j k_j `[n,H,D]`, of which the last two are empty in quadratic order.
    """
    bounds, most = (query_bounds, key_bounds), (most_queries, most_keys)
    problem = Problem.of(q, k, v, weights, padding, bounds, most, momentum, step_size, mapped)
    out, inverse, states, sums = allocate(q, k, v, query_bounds, problem.quadratic)
    with problem.device():
        if problem.quadratic:
            launch_quadratic(problem, out, inverse, eps)
        else:
            launch_linear(problem, out, inverse, states, sums, eps)
    return out, inverse, states, sums


@weighted_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, weights: Any, padding: Any, query_bounds: Tensor | None, key_bounds: Any,
    most_queries: int, most_keys: int, *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return allocate(q, k, v, query_bounds, quadratic(most_queries, most_keys, q.shape[3], v.shape[3]))


def allocate(
    q: Tensor, k: Tensor, v: Tensor, query_bounds: Tensor | None, quadratic_order: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `weighted_attention` returns, unset."""
    batch, heads, length, dim = q.shape
    sequences = batch if query_bounds is None else query_bounds.shape[0] - 1
    inverse = q.new_empty(batch, heads, length, dtype=torch.float32)
    shapes = ((0,), (0,)) if quadratic_order else ((sequences, heads, dim, v.shape[3]), (sequences, heads, dim))
    states, sums = (q.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return head_by_head(v, length, v.shape[3]), inverse, states, sums


def head_by_head(x: Tensor, length: int, width: int) -> Tensor:
    """Unset `[B,H,length,width]`, lying as `[B,length,H,width]`, for the projection of all heads that comes next."""
    return x.new_empty(x.shape[0], length, x.shape[1], width).transpose(1, 2)


@torch.library.custom_op("momentum_fairseq::weighted_attention_backward", mutates_args=())
def weighted_attention_backward(
    g: Tensor,
    out: Tensor,
    inverse: Tensor,
    states: Tensor,
    sums: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    padding: Tensor | None,
    query_bounds: Tensor | None,
    key_bounds: Tensor | None,
    most_queries: int,
    most_keys: int,
    momentum: float,
    step_size: float,
    mapped: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, each of its dtype, and of weights, float32 `[B,H,S]`, empty where there are none."""
    bounds, most = (query_bounds, key_bounds), (most_queries, most_keys)
    problem = Problem.of(q, k, v, weights, padding, bounds, most, momentum, step_size, mapped)
    gradients = allocate_gradients(q, k, v, weights)
    dw = None if weights is None else gradients[3]
    g = rows_contiguous(g)
    with problem.device():
        if problem.quadratic:
            launch_quadratic_gradients(problem, g, out, inverse, *gradients[:3], dw)
        else:
            launch_linear_gradients(problem, g, out, inverse, states, sums, *gradients[:3], dw)
    return gradients


@weighted_attention_backward.register_fake
def _(g: Tensor, out: Any, inverse: Any, states: Any, sums: Any, q: Tensor, k: Tensor, v: Tensor, weights: Any, *_: Any) -> Any:
    return allocate_gradients(q, k, v, weights)


def allocate_gradients(q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (head_by_head(x, *x.shape[2:]) for x in (q, k, v))
    return dq, dk, dv, q.new_empty((0,) if weights is None else v.shape[:3], dtype=torch.float32)


def save_for_gradients(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, _, _, _, _, _, _ = inputs
    ctx.save_for_backward(*output, *tensors)
    *ctx.numbers, _, ctx.mapped = inputs[-6:]


def gradients(ctx: Any, g: Tensor, *_: Any) -> tuple:
    dq, dk, dv, dw = weighted_attention_backward(g, *ctx.saved_tensors, *ctx.numbers, ctx.mapped)
    weights = ctx.saved_tensors[7]
    return dq, dk, dv, None if weights is None else dw, *(None,) * 9


weighted_attention.register_autograd(gradients, setup_context=save_for_gradients)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    weights: Tensor | None = None,
    momentum: float = 0.0,
    step_size: float = 1.0,
    key_padding_mask: Tensor | None = None,
    bounds: tuple[Tensor, Tensor] | None = None,
    most: tuple[int, int] | None = None,
    eps: float = 1e-6,
    mapped: bool = True,
) -> Tensor:
    """`weighted_attention` with all defaults.

    Args:
        weights: `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`; None = by momentum and step_size.
        bounds, most: `query_bounds` and `key_bounds`, `most_queries` and `most_keys`; None = there is one sequence a row.

    Raises:
        ValueError: tensors on several devices.
    """
    check_one_device(q, k, v, weights, key_padding_mask, *(bounds or ()))
    if weights is not None:
        weights = weights.float().expand(v.shape[:3])
    most = (q.shape[2], k.shape[2]) if most is None else most
    bounds = (None, None) if bounds is None else tuple(x.contiguous() for x in bounds)
    return weighted_attention(
        q, k, v, weights, key_padding_mask, *bounds, *most, float(momentum), float(step_size), eps, mapped
    )[0]
