"""The adaptive step's backward by hand against autograd of torch's own operations."""

import pytest
import torch
from torch import Tensor

from momentum_fairseq.ops.adaptive_step import adaptive_step, plain_step

NUMBERS = {"step_size": 0.9, "delta": 0.1, "eps": 1e-6}


def case(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, a_k, a_{k−1}, u_{k−1} `[2,6,5]` whose β̃ lie inside its range, at its end, and where a norm is below eps."""
    generator = torch.Generator().manual_seed(2)
    x, push, change, velocity = torch.randn(4, 2, 6, 5, generator=generator, dtype=torch.float64)
    last_push = push + change * torch.tensor([0.01, 0.2, 1, 30, 0.3, 0.3]).view(6, 1)
    push, last_push, velocity = push.clone(), last_push.clone(), velocity.clone()
    last_push[:, 4], velocity[:, 4] = 1e-9 * last_push[:, 4], 1e-9 * velocity[:, 4]
    push[:, 5] = last_push[:, 5] + 1e-9
    return [tensor.to(dtype).requires_grad_() for tensor in (x, push, last_push, velocity)]


def gradients_of(step, tensors: list[Tensor], by_velocity: bool) -> tuple[Tensor, ...]:
    out = step(*tensors, by_velocity, **NUMBERS)
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in out]
    return *out, *torch.autograd.grad(out, tensors, directions)


@pytest.mark.parametrize("by_velocity", [False, True])
def test_values_and_gradients_are_those_of_torchs_operations(by_velocity):
    found, expected = (gradients_of(step, case(), by_velocity) for step in (adaptive_step, plain_step))
    momentum = expected[2]
    assert (momentum == 0.9).any() and ((momentum > 0) & (momentum < 0.9)).any()
    for mine, torchs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("by_velocity", [False, True])
def test_a_norm_below_eps_changes_nothing_where_the_momentum_is_not_cut_off_either(by_velocity):
    """Of a_k − a_{k−1} in the first row, of the reference in the second."""
    x, push, change, reference = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    reference *= torch.tensor([[0.1], [1e-10]])
    last_push, velocity = (push, reference) if by_velocity else (reference, x)
    push = last_push + torch.tensor([[1e-9], [1e-6]]) * change

    def gradients(step):
        tensors = [tensor.clone().requires_grad_() for tensor in (x, push, last_push, velocity)]
        out, _, momentum = step(*tensors, by_velocity, step_size=0.9, delta=1e-3, eps=1e-6)
        assert ((momentum > 0.1) & (momentum < 0.999)).any()
        return torch.autograd.grad((out.sum(-1, keepdim=True) * momentum).sum(), tensors)

    torch.testing.assert_close(gradients(adaptive_step), gradients(plain_step), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("by_velocity", [False, True])
def test_first_and_second_gradients_are_the_derivatives(by_velocity):
    tensors = [tensor.detach()[:, 1:3].requires_grad_() for tensor in case()]

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        return adaptive_step(*tensors, by_velocity, **NUMBERS)

    assert torch.autograd.gradcheck(step, tensors)
    assert torch.autograd.gradgradcheck(step, tensors)


@pytest.mark.parametrize("held", range(4))
def test_a_gradient_that_is_not_asked_for_changes_nothing(held):
    tensors = case()
    expected = gradients_of(plain_step, tensors, False)[3:]
    rest = [tensor for i, tensor in enumerate(tensors) if i != held]
    tensors[held] = tensors[held].detach()
    out = adaptive_step(*tensors, False, **NUMBERS)
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in out]
    found = torch.autograd.grad(out, rest, directions, create_graph=True)
    for mine, torchs in zip(found, expected[:held] + expected[held + 1 :], strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-10, atol=1e-10)


def test_mixed_dtypes_go_by_torchs_operations():
    x, push, last_push, velocity = case(torch.float32)
    push, last_push, velocity = (tensor.detach().bfloat16().requires_grad_() for tensor in (push, last_push, velocity))
    out, new_velocity, momentum = adaptive_step(x, push, last_push, velocity, False, **NUMBERS)
    assert (out.dtype, new_velocity.dtype, momentum.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    gradients = torch.autograd.grad(out.sum(), (x, push, last_push, velocity))
    assert [gradient.dtype for gradient in gradients] == [torch.float32] + 3 * [torch.bfloat16]


def test_the_gradient_of_the_momentum_is_summed_beyond_what_float16_holds():
    x, push, last_push, _ = (tensor.detach() for tensor in case(torch.float16))
    velocity = torch.full_like(x, 30.0)
    tensors = [tensor[:, 1:3].requires_grad_() for tensor in (x, push, last_push, velocity)]
    out, _, momentum = adaptive_step(*tensors, False, **NUMBERS)
    assert ((momentum > 0) & (momentum < 0.9)).any()
    gradients = torch.autograd.grad(out, tensors, torch.full_like(out, 600.0))  # the sum of 5 · 600 · 0.9 · 30 is 81000
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_autograd_keeps_of_the_features_size_only_what_came_in():
    tensors, kept = case(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        adaptive_step(*tensors, False, **NUMBERS)
    large = {tensor.data_ptr() for tensor in kept if tensor.shape[-1] > 1}
    assert large <= {tensor.data_ptr() for tensor in tensors}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("by_velocity", [False, True])
def test_without_gradients_it_gives_the_same_and_writes_over_nothing(by_velocity, dtype):
    tensors = [tensor.detach() for tensor in case(dtype)]
    before = [tensor.clone() for tensor in tensors]
    found, expected = (step(*tensors, by_velocity, **NUMBERS) for step in (adaptive_step, plain_step))
    for mine, torchs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=0, atol=0)
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor, old)
