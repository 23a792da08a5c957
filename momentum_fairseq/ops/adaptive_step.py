"""One step of a heavy ball whose momentum adapts to its pushes (Nguyen et al. 2022, Eq. 17–18), its backward by hand."""

from typing import Any

import torch
from torch import Tensor

from momentum_fairseq.ops.noncausal_by_hand import takes_passes_by_hand
from momentum_fairseq.ops.recorded_gradients import recorded_gradients

Step = tuple[Tensor, Tensor, Tensor]


def adaptive_step(
    x: Tensor, push: Tensor, last_push: Tensor, velocity: Tensor, reference: Tensor, step_size: float, delta: float, eps: float
) -> Step:
    """One step from x, pushed by a_k after a_{k−1}.

        r = ‖a_k − a_{k−1}‖ / ‖reference‖,  β̃ = clamp((1 − √r)², 0, 1 − δ),  u_k = β̃ u_{k−1} + a_k,  x' = x + γ̃ u_k

    Where all are of one dtype, float32 or float64, autograd keeps no intermediate of the features' size, and the backward takes a
    third of the time; it can be differentiated again.

    Args:
        x, push, last_push, velocity, reference: `[...,C]`: a_k, a_{k−1}, u_{k−1}; reference is a_{k−1} or u_{k−1} itself.
        step_size: γ̃. delta: δ. eps: the least that a norm counts as.

    Returns:
        x' and u_k `[...,C]`, u_k in a_k's dtype; and β̃ `[...,1]`, as the norms in float32 at least.
    """
    tensors = x, push, last_push, velocity
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    alike = x.dtype in (torch.float32, torch.float64) and all(tensor.dtype == x.dtype for tensor in tensors)
    if recorded and alike and takes_passes_by_hand(None):
        return _AdaptiveStep.apply(*tensors, reference is velocity, step_size, delta, eps)
    return plain_step(*tensors, reference, step_size, delta, eps)


def plain_step(
    x: Tensor, push: Tensor, last_push: Tensor, velocity: Tensor, reference: Tensor, step_size: float, delta: float, eps: float
) -> Step:
    """`adaptive_step` by torch's operations alone."""
    root = (norm(push - last_push, eps) / norm(reference, eps)).sqrt()
    momentum = (1 - root).square().clamp(max=1 - delta)  # not in lower precision: bfloat16 rounds 0.999 to 1
    velocity = torch.addcmul(push, momentum, velocity).to(push.dtype)
    return torch.add(x, velocity, alpha=step_size), velocity, momentum


def norm(x: Tensor, eps: float) -> Tensor:
    """`[...,C]` → `[...,1]`, at least eps."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).clamp(min=eps)


class _AdaptiveStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        push: Tensor,
        last_push: Tensor,
        velocity: Tensor,
        by_velocity: bool,
        step_size: float,
        delta: float,
        eps: float,
    ) -> Step:
        ctx.save_for_backward(x, push, last_push, velocity)
        ctx.constants = by_velocity, step_size, delta, eps
        return plain_step(x, push, last_push, velocity, velocity if by_velocity else last_push, step_size, delta, eps)

    @staticmethod
    def backward(ctx: Any, of_x: Tensor, of_velocity: Tensor, of_momentum: Tensor) -> tuple[Tensor | None, ...]:
        x, push, last_push, velocity = ctx.saved_tensors
        by_velocity, step_size, delta, eps = ctx.constants
        if torch.is_grad_enabled():  # to be differentiated again
            directions = of_x, of_velocity, of_momentum

            def step(x: Tensor, push: Tensor, last_push: Tensor, velocity: Tensor) -> Step:
                reference = velocity if by_velocity else last_push
                return plain_step(x, push, last_push, velocity, reference, step_size, delta, eps)

            return *recorded_gradients(step, ctx.saved_tensors, ctx.needs_input_grad[:4], directions), *[None] * 4
        reference = velocity if by_velocity else last_push
        change = push - last_push
        of_push = torch.add(of_velocity, of_x, alpha=step_size)
        on_momentum = of_momentum + (of_push * velocity).sum(-1, keepdim=True)
        norms = norm(change, eps), norm(reference, eps)
        on_change, on_reference, momentum = differentiate_momentum(on_momentum, *norms, delta, eps)
        of_velocity, of_change = of_push * momentum, change.mul_(on_change)
        if by_velocity:
            of_velocity.addcmul_(velocity, on_reference)
            of_last_push = -of_change
        else:
            of_last_push = (last_push * on_reference).sub_(of_change)
        return of_x, of_push.add_(of_change), of_last_push, of_velocity, None, None, None, None


def differentiate_momentum(on_momentum: Tensor, change: Tensor, reference: Tensor, delta: float, eps: float) -> Step:
    """What multiplies a_k − a_{k−1} and the reference in their gradients, from β̃'s gradient and their norms; and β̃.

    All `[...,1]`. Where β̃ or a norm is cut off, nothing changes it.
    """
    root = (change / reference).sqrt()
    square = (1 - root).square()
    on_ratio = torch.where(square <= 1 - delta, on_momentum, 0) * (1 - 1 / root)
    on_change = torch.where(change > eps, on_ratio / (change * reference), 0)
    on_reference = torch.where(reference > eps, -on_ratio * (root / reference).square(), 0)
    return on_change, on_reference, square.clamp(max=1 - delta)
