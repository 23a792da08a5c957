"""Causal momentum and linear attention by Triton's kernels, as operations that torch differentiates, compiles and traces.

What is differentiated twice is differentiated once by the kernels and again by torch's own operations.
"""

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import elu_plus_one
from momentum_fairseq.ops.kernel_choice import kernel
from momentum_fairseq.ops.kernels import causal_launches as launches
from momentum_fairseq.ops.kernels.causal_setting import setting_of
from momentum_fairseq.ops.kernels.causal_tiles import States


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
    bounds: Tensor | None = None,
    longest: int | None = None,
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
        bounds: `[n+1]`: B is 1, and n sequences lie one after the other, each with a state of its own; None = there is one a row.
        longest: no sequence has more positions; None = N.

    Returns:
        `[B,H,N,M]` in v's dtype; and s, m and z, float32 (m is empty without momentum), or None.

    Raises:
        ValueError: tensors on several devices.
    """
    numbers = [x for x in (momentum, step_size) if isinstance(x, Tensor) and x.dim()]
    check_one_device(q, k, v, key_padding_mask, bounds, *numbers, *(initial_state or ()))
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
        bounds,
        q.shape[2] if longest is None else longest,
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
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None, gamma: Tensor | None, momentum: float, step_size: float, linear: bool,
    padding: Tensor | None, bounds: Tensor | None, longest: int, first: Tensor | None, second: Tensor | None, sums: Tensor | None,
    eps: float, return_state: bool, feature_map: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, normaliser `[B,H,N]`, and s / γ, −m and z after the last key; these are empty where not wanted.

    β and γ are `beta` and `gamma` `[H]` where given, else `momentum` and `step_size`.
    """
    setting = setting_of(
        q, k, v, (momentum, step_size), beta, gamma, linear, padding, bounds, longest, eps, feature_map,
        states=first is not None or return_state,
    )  # fmt: skip
    last = empty_states(q, v, bounds, linear, return_state)
    with torch.cuda.device_of(q):
        out, normaliser = launches.forward(
            q, k, v, setting, states(first, second, sums), to_write(last, linear) if return_state else None
        )
    return out, normaliser, *last


@causal_attention.register_fake
def _(
    q, k, v, beta, gamma, momentum, step_size, linear, padding, bounds, longest, first, second, sums, eps, return_state,
    feature_map,
):  # fmt: skip
    normaliser = q.new_empty(q.shape[:3], dtype=torch.float32)
    return torch.empty_like(v), normaliser, *empty_states(q, v, bounds, linear, return_state)


def empty_states(q: Tensor, v: Tensor, bounds: Tensor | None, linear: bool, wanted: bool) -> States:
    sequences = q.shape[0] if bounds is None else bounds.shape[0] - 1
    matrix, none = (sequences, q.shape[1], q.shape[3], v.shape[3]), (0,)
    shapes = (matrix, none if linear else matrix, matrix[:3]) if wanted else (none,) * 3
    return States(*(q.new_empty(shape, dtype=torch.float32) for shape in shapes))


def to_write(given: States, linear: bool) -> States:
    """Without momentum there is no second state."""
    return given._replace(second=None) if linear else given


def states(first: Tensor | None, second: Tensor | None, sums: Tensor | None) -> States | None:
    """Contiguous, for the kernels."""
    if first is None:
        return None
    return States(*(None if x is None else x.contiguous() for x in (first, second, sums)))


@torch.library.custom_op("momentum_fairseq::causal_attention_backward", mutates_args=())
def causal_attention_backward(
    grad: Tensor, grad_first: Tensor | None, grad_second: Tensor | None, grad_sums: Tensor | None, q: Tensor, k: Tensor,
    v: Tensor, out: Tensor, normaliser: Tensor, beta: Tensor | None, gamma: Tensor | None, momentum: float, step_size: float,
    linear: bool, padding: Tensor | None, bounds: Tensor | None, longest: int, first: Tensor | None, second: Tensor | None,
    sums: Tensor | None, eps: float, feature_map: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients for q, k, v, β, γ, and s / γ, −m and z before the first key; empty for those not given."""
    setting = setting_of(
        q, k, v, (momentum, step_size), beta, gamma, linear, padding, bounds, longest, eps, feature_map,
        states=first is not None or grad_first is not None,
    )  # fmt: skip
    grad_initial = empty_states(q, v, bounds, linear, first is not None)
    with torch.cuda.device_of(q):
        dq, dk, dv, delta, slope = launches.backward(
            q, k, v, out, normaliser, grad, setting, states(first, second, sums), states(grad_first, grad_second, grad_sums),
            None if first is None else to_write(grad_initial, linear), beta is not None,
        )  # fmt: skip
    dbeta = grad.new_empty(0) if beta is None else slope.to(beta.dtype)
    dgamma = grad.new_empty(0)
    if gamma is not None:
        dgamma = (-(delta * normaliser).sum((0, 2)) / setting.gamma.first).to(gamma.dtype)
    return dq, dk, dv, dbeta, dgamma, *grad_initial


@causal_attention_backward.register_fake
def _(
    grad, grad_first, grad_second, grad_sums, q, k, v, out, normaliser, beta, gamma, momentum, step_size, linear, padding, bounds,
    longest, first, second, sums, eps, feature_map,
):  # fmt: skip
    gradients = (torch.empty_like(x) for x in (q, k, v))
    numbers = (grad.new_empty(0) if x is None else x.new_empty(x.shape) for x in (beta, gamma))
    return *gradients, *numbers, *empty_states(q, v, bounds, linear, first is not None)


def keep_for_backward(ctx, inputs, output) -> None:
    (q, k, v, beta, gamma, momentum, step_size, linear, padding, bounds, longest, first, second, sums, eps, _, feature_map) = (
        inputs
    )
    out, normaliser, *_ = output
    ctx.mark_non_differentiable(normaliser)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, out, normaliser, beta, gamma, padding, bounds, first, second, sums)
    ctx.numbers = (momentum, step_size, linear, longest, eps, feature_map)


def differentiate(ctx, grad, _, grad_first, grad_second, grad_sums):
    q, k, v, out, normaliser, beta, gamma, padding, bounds, first, second, sums = ctx.saved_tensors
    momentum, step_size, linear, longest, eps, feature_map = ctx.numbers
    grad = torch.zeros_like(out) if grad is None else grad
    grads = (grad_first, grad_second, grad_sums)
    if any(x is not None and x.numel() for x in grads):
        zeros = [torch.zeros_like(x) for x in empty_states(q, v, bounds, linear, True)]
        grads = [zero if x is None else x for x, zero in zip(grads, zeros, strict=True)]
    else:
        grads = (None,) * 3
    dq, dk, dv, dbeta, dgamma, dfirst, dsecond, dsums = causal_attention_backward(
        grad, *grads, q, k, v, out, normaliser, beta, gamma, momentum, step_size, linear, padding, bounds, longest,
        first, second, sums, eps, feature_map,
    )  # fmt: skip
    dbeta, dgamma = None if beta is None else dbeta, None if gamma is None else dgamma
    dstates = (None if given is None else x for given, x in ((first, dfirst), (second, dsecond), (sums, dsums)))
    return dq, dk, dv, dbeta, dgamma, None, None, None, None, None, None, *dstates, None, None, None


causal_attention.register_autograd(differentiate, setup_context=keep_for_backward)


def keep_for_second_backward(ctx, inputs, output) -> None:
    grad, grad_first, grad_second, grad_sums, q, k, v, _, _, beta, gamma, momentum, step_size, linear, padding, bounds = inputs[
        :16
    ]
    longest, first, second, sums, eps, feature_map = inputs[16:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, grad_first, grad_second, grad_sums, q, k, v, beta, gamma, first, second, sums, padding, bounds)
    ctx.numbers = (momentum, step_size, linear, longest, eps, feature_map)


def differentiate_again(ctx, *directions):
    """The gradients of the first gradients, along `directions`: those of the same attention in torch's operations."""
    *given, padding, bounds = ctx.saved_tensors
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, since one may be made from another: the gradient of that one would be counted twice.
        given = [x if x is None else x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in given]
        grads, leaves = given[:4], given[4:]
        outs = by_torch(*leaves, padding, bounds, *ctx.numbers)
        pairs = [(out, grad) for out, grad in zip(outs, grads, strict=True) if grad is not None and out is not None]
        wanted = [(i, x) for i, x in enumerate(leaves) if x is not None]
        once = torch.autograd.grad(
            [out for out, _ in pairs],
            [x for _, x in wanted],
            [grad for _, grad in pairs],
            create_graph=True,
            materialize_grads=True,
        )
        pairs = [
            (x, directions[i]) for (i, _), x in zip(wanted, once, strict=True) if directions[i] is not None and x.requires_grad
        ]
        inputs = [x for x in given if x is not None]
        twice = iter(
            torch.autograd.grad(
                [x for x, _ in pairs], inputs, [direction for _, direction in pairs], allow_unused=True, create_graph=again
            )
        )
    of_given = [None if x is None else next(twice) for x in given]
    of_q_k_v, of_numbers, of_states = of_given[4:7], of_given[7:9], of_given[9:]
    return *of_given[:4], *of_q_k_v, None, None, *of_numbers, *(None,) * 6, *of_states, None, None


def by_torch(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None, gamma: Tensor | None, first: Tensor | None, second: Tensor | None,
    sums: Tensor | None, padding: Tensor | None, bounds: Tensor | None, momentum: float, step_size: float, linear: bool,
    longest: int, eps: float, feature_map: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:  # fmt: skip
    """Output, and s / γ, −m and z after the last key, of `causal_attention` in torch's operations."""
    from momentum_fairseq import ops  # which leads here

    gamma = step_size if gamma is None else gamma
    scale = gamma.reshape(-1, 1, 1) if isinstance(gamma, Tensor) else gamma
    options = {"eps": eps, "return_state": True, "feature_map": elu_plus_one if feature_map else None}
    if linear:
        attention = ops.causal_linear_attention
        state = None if first is None else ops.LinearState(first, sums)
    else:
        attention = ops.causal_momentum_attention
        options |= {"momentum": momentum if beta is None else beta, "step_size": gamma}
        state = None if first is None else ops.MomentumState(first * scale, -second, sums)
    with kernel("torch"):
        if bounds is None:
            out, state = attention(q, k, v, key_padding_mask=padding, initial_state=state, **options)
        else:
            cut = {"cu_seqlens": bounds, "max_length": longest}
            out, state = ops.padding_free_attention(attention, q, k, v, initial_state=state, **cut, **options)
    if linear:
        return out, state.s, None, state.z
    return out, state.s / scale, -state.m, state.z


causal_attention_backward.register_autograd(differentiate_again, setup_context=keep_for_second_backward)
