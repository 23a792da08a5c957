"""Causal momentum and linear attention by Triton's kernels, as operations that torch differentiates, compiles and traces."""

import torch
from torch import Tensor

from momentum_fairseq.ops.kernels import causal_launches as launches
from momentum_fairseq.ops.kernels.causal_launches import States


def causal_attention_by_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: float | Tensor | None,
    step_size: float | Tensor = 1.0,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
    initial_state: tuple[Tensor, Tensor | None, Tensor] | None = None,
    return_state: bool = False,
    feature_map: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor] | None]:
    """`causal_momentum_attention`, whose arguments have been checked; without momentum `causal_linear_attention`.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,N,D]`, `[B,H,N,M]`, none of them empty; float32, bfloat16 or float16, of any layout.
        momentum: β, a number or a tensor `[H]` or `[]`; None = linear attention.
        step_size: γ, likewise.
        key_padding_mask: bool `[B,N]`, True = padding, anywhere.
        eps: added to the normaliser.
        initial_state: s, m and z before the first key (m is not read without momentum); None = there are no keys before.
        return_state: also return the state after the last key.
        feature_map: take φ(x) = elu(x) + 1 of q and k on the way; they are then not yet feature-mapped.

    Returns:
        `[B,H,N,M]` in v's dtype; and s, m and z, float32 (m is empty without momentum), or None.

    Raises:
        ValueError: tensors on several devices.
    """
    numbers = [x for x in (momentum, step_size) if isinstance(x, Tensor) and x.dim()]
    check_one_device(q, k, v, key_padding_mask, *numbers, *(initial_state or ()))
    heads = q.shape[1]
    beta = momentum.reshape(-1).expand(heads) if isinstance(momentum, Tensor) else None
    gamma = step_size.reshape(-1).expand(heads) if isinstance(step_size, Tensor) else None
    scale = 1.0 if momentum is None else step_size if gamma is None else gamma.float().reshape(-1, 1, 1)
    first = second = sums = None
    if initial_state is not None:
        s, m, z = initial_state
        first, sums = s.float() / scale, z.float()
        second = None if momentum is None else -m.float()
    out, _, first, second, sums = causal_attention(
        q,
        k,
        v,
        beta,
        gamma,
        0.0 if momentum is None or beta is not None else float(momentum),
        1.0 if gamma is not None else float(step_size),
        momentum is None,
        key_padding_mask,
        first,
        second,
        sums,
        eps,
        return_state,
        feature_map,
    )
    return out, (first * scale, -second, sums) if return_state else None


def check_one_device(q: Tensor, *others: Tensor | None) -> None:
    """Raise ValueError where a tensor isn't where q is."""
    for x in others:
        if x is not None and x.device != q.device:
            raise ValueError(f"attention needs all tensors on one device, got q on {q.device} and another on {x.device}")


@torch.library.custom_op("momentum_fairseq::causal_attention", mutates_args=())
def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    gamma: Tensor | None,
    momentum: float,
    step_size: float,
    linear: bool,
    padding: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    sums: Tensor | None,
    eps: float,
    return_state: bool,
    feature_map: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, normaliser `[B,H,N]`, and s / γ, −m and z after the last key; these are empty where not wanted.

    β and γ are `beta` and `gamma` `[H]` where given, else `momentum` and `step_size`.
    """
    setting = launches.setting_of(q, k, v, (momentum, step_size), beta, gamma, linear, padding, eps, feature_map)
    last = States(*empty_states(q, v, linear, return_state))
    with torch.cuda.device_of(q):
        out, normaliser = launches.forward(q, k, v, setting, states(first, second, sums), last if return_state else None)
    return out, normaliser, *last


@causal_attention.register_fake
def _(q, k, v, beta, gamma, momentum, step_size, linear, padding, first, second, sums, eps, return_state, feature_map):
    return torch.empty_like(v), q.new_empty(q.shape[:3], dtype=torch.float32), *empty_states(q, v, linear, return_state)


def empty_states(q: Tensor, v: Tensor, linear: bool, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, _, width = q.shape
    matrix, none = (batch, heads, width, v.shape[3]), (0,)
    shapes = (matrix, none if linear else matrix, matrix[:3]) if wanted else (none,) * 3
    first, second, sums = (q.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return first, second, sums


def states(first: Tensor | None, second: Tensor | None, sums: Tensor | None) -> States | None:
    """Contiguous; linear attention's second state is never read."""
    if first is None:
        return None
    first = first.contiguous()
    return States(first, first if second is None else second.contiguous(), sums.contiguous())


@torch.library.custom_op("momentum_fairseq::causal_attention_backward", mutates_args=())
def causal_attention_backward(
    grad: Tensor,
    grad_first: Tensor | None,
    grad_second: Tensor | None,
    grad_sums: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    normaliser: Tensor,
    beta: Tensor | None,
    gamma: Tensor | None,
    momentum: float,
    step_size: float,
    linear: bool,
    padding: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    sums: Tensor | None,
    eps: float,
    feature_map: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for q, k, v, β, γ, and s / γ, −m and z before the first key; empty for those not given."""
    setting = launches.setting_of(q, k, v, (momentum, step_size), beta, gamma, linear, padding, eps, feature_map)
    initial, grad_last = states(first, second, sums), states(grad_first, grad_second, grad_sums)
    grad_initial = States(*empty_states(q, v, linear, first is not None))
    with torch.cuda.device_of(q):
        dq, dk, dv, rho, delta = launches.backward(
            q, k, v, out, normaliser, grad, setting, initial, grad_last, None if initial is None else grad_initial
        )
        dbeta = grad.new_empty(0)
        if beta is not None:
            dbeta = launches.momentum_gradient(q, k, v, grad, rho, setting, initial, grad_last).to(beta.dtype)
    dgamma = grad.new_empty(0)
    if gamma is not None:
        dgamma = (-(delta * normaliser).sum((0, 2)) / setting.gamma).to(gamma.dtype)
    return dq, dk, dv, dbeta, dgamma, *grad_initial


@causal_attention_backward.register_fake
def _(
    grad, grad_first, grad_second, grad_sums, q, k, v, out, normaliser, beta, gamma, momentum, step_size, linear, padding,
    first, second, sums, eps, feature_map,
):  # fmt: skip
    gradients = (torch.empty_like(x) for x in (q, k, v))
    numbers = (grad.new_empty(0) if x is None else x.new_empty(x.shape) for x in (beta, gamma))
    return *gradients, *numbers, *empty_states(q, v, linear, first is not None)


def keep_for_backward(ctx, inputs, output) -> None:
    q, k, v, beta, gamma, momentum, step_size, linear, padding, first, second, sums, eps, _, feature_map = inputs
    out, normaliser, *_ = output
    ctx.mark_non_differentiable(normaliser)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, out, normaliser, beta, gamma, padding, first, second, sums)
    ctx.numbers = (momentum, step_size, linear, eps, feature_map)


def differentiate(ctx, grad, _, grad_first, grad_second, grad_sums):
    q, k, v, out, normaliser, beta, gamma, padding, first, second, sums = ctx.saved_tensors
    momentum, step_size, linear, eps, feature_map = ctx.numbers
    grad = torch.zeros_like(out) if grad is None else grad
    if any(x is not None for x in (grad_first, grad_second, grad_sums)):
        shape = (*q.shape[:2], q.shape[3], v.shape[3])
        zeros = [normaliser.new_zeros(size) for size in (shape, shape, shape[:3])]
        given = zip((grad_first, grad_second, grad_sums), zeros, strict=True)
        grad_first, grad_second, grad_sums = (zero if x is None or x.numel() == 0 else x for x, zero in given)
    dq, dk, dv, dbeta, dgamma, dfirst, dsecond, dsums = causal_attention_backward(
        grad, grad_first, grad_second, grad_sums, q, k, v, out, normaliser, beta, gamma, momentum, step_size, linear, padding,
        first, second, sums, eps, feature_map,
    )  # fmt: skip
    dbeta, dgamma = None if beta is None else dbeta, None if gamma is None else dgamma
    dstates = (None if given is None else x for given, x in ((first, dfirst), (second, dsecond), (sums, dsums)))
    return dq, dk, dv, dbeta, dgamma, None, None, None, None, *dstates, None, None, None


causal_attention.register_autograd(differentiate, setup_context=keep_for_backward)
