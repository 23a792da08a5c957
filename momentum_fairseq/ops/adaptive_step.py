"""One step of a heavy ball whose momentum adapts to its pushes (Nguyen et al. 2022, Eq. 17–18), its backward by hand."""

from typing import Any

import torch
from torch import Tensor

from momentum_fairseq.ops.passes_by_hand import asks_for_recorded_gradients, recorded_gradients, takes_passes_by_hand

Step = tuple[Tensor, Tensor, Tensor]


def adaptive_step(
    x: Tensor, push: Tensor, last_push: Tensor, velocity: Tensor, by_velocity: bool, step_size: float, delta: float, eps: float
) -> Step:
    """One step from x, pushed by a_k after a_{k−1}.

        r = ‖a_k − a_{k−1}‖ / ‖a_{k−1}‖,  β̃ = clamp((1 − √r)², 0, 1 − δ),  u_k = β̃ u_{k−1} + a_k,  x' = x + γ̃ u_k

    Where all are of one dtype, float32 or float64, autograd keeps no intermediate of the features' size, and the backward takes a
    third of the time; it can be differentiated again.

    Args:
        x, push, last_push, velocity: `[...,C]`, the latter three a_k, a_{k−1} and u_{k−1}.
        by_velocity: divide by ‖u_{k−1}‖ in place of ‖a_{k−1}‖.
        step_size: γ̃. delta: δ. eps: the least that a norm counts as.

    Returns:
        x' and u_k `[...,C]`, u_k in a_k's dtype; and β̃ `[...,1]`, as the norms in float32 at least.
    """
    tensors, numbers = (x, push, last_push, velocity), (step_size, delta, eps)
    if takes_passes_by_hand():
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
            return unrecorded_step(*tensors, by_velocity, *numbers)[:3]
        if x.dtype in (torch.float32, torch.float64) and all(tensor.dtype == x.dtype for tensor in tensors):
            return _AdaptiveStep.apply(*tensors, by_velocity, *numbers)
    return plain_step(*tensors, by_velocity, *numbers)


def plain_step(
    x: Tensor, push: Tensor, last_push: Tensor, velocity: Tensor, by_velocity: bool, step_size: float, delta: float, eps: float
) -> Step:
    """`adaptive_step` by torch's operations alone."""
    reference_norm = norm(velocity if by_velocity else last_push).clamp(min=eps)
    root = (norm(push - last_push).clamp(min=eps) / reference_norm).sqrt()
    momentum = (1 - root).square().clamp(max=1 - delta)
    return *move(x, push, velocity, momentum, step_size), momentum


def unrecorded_step(
    x: Tensor, push: Tensor, last_push: Tensor, velocity: Tensor, by_velocity: bool, step_size: float, delta: float, eps: float
) -> tuple[Tensor, ...]:
    """`plain_step` in place where a recorded graph would need what is written over; its results, and then both norms."""
    change_norm = norm(push - last_push).clamp_min_(eps)
    reference_norm = norm(velocity if by_velocity else last_push).clamp_min_(eps)
    momentum = (change_norm / reference_norm).sqrt_().sub_(1).square_().clamp_max_(1 - delta)
    return *move(x, push, velocity, momentum, step_size), momentum, change_norm, reference_norm


def norm(x: Tensor) -> Tensor:
    """`[...,C]` → `[...,1]`, in float32 at least: bfloat16 would round a momentum of 0.999 to 1."""
    dtype = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else None
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)


def move(x: Tensor, push: Tensor, velocity: Tensor, momentum: Tensor, step_size: float) -> tuple[Tensor, Tensor]:
    """x' and u_k."""
    velocity = torch.addcmul(push, momentum, velocity).to(push.dtype)
    return torch.add(x, velocity, alpha=step_size), velocity


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
        ctx.constants = by_velocity, step_size, delta, eps
        *step, change_norm, reference_norm = unrecorded_step(x, push, last_push, velocity, by_velocity, step_size, delta, eps)
        ctx.save_for_backward(x, push, last_push, velocity, change_norm, reference_norm)
        return tuple(step)

    @staticmethod
    def backward(ctx: Any, of_x: Tensor, of_velocity: Tensor, of_momentum: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, change_norm, reference_norm = ctx.saved_tensors
        _, push, last_push, velocity = inputs
        by_velocity, step_size, delta, eps = ctx.constants
        directions = of_x, of_velocity, of_momentum
        if any(map(asks_for_recorded_gradients, directions)):

            def step(x: Tensor, push: Tensor, last_push: Tensor, velocity: Tensor) -> Step:
                return plain_step(x, push, last_push, velocity, by_velocity, step_size, delta, eps)

            return *recorded_gradients(step, inputs, ctx.needs_input_grad[:4], directions), *[None] * 4
        of_push = torch.add(of_velocity, of_x, alpha=step_size)
        on_momentum = of_momentum + (of_push * velocity).sum(-1, keepdim=True)
        on_change, on_reference, momentum = differentiate_momentum(on_momentum, change_norm, reference_norm, delta, eps)
        of_velocity, of_last_push = of_push * momentum, (last_push - push).mul_(on_change)
        of_push.sub_(of_last_push)
        if by_velocity:
            of_velocity.addcmul_(velocity, on_reference)
        else:
            of_last_push.addcmul_(last_push, on_reference)
        return of_x, of_push, of_last_push, of_velocity, None, None, None, None


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
