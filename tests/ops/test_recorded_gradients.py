"""Gradients that are differentiated again, where q, k and v are made from one another."""

import pytest
import torch

from momentum_fairseq.ops import causal_linear_attention, causal_momentum_attention, linear_attention, momentum_attention
from momentum_fairseq.ops.adaptive_step import adaptive_step, plain_step
from tests.ops.cases import inputs, padding_mask

NUMBERS = {"momentum": 0.9, "step_size": 0.7}
OPS = {
    "linear": linear_attention,
    "causal_linear": causal_linear_attention,
    "momentum": lambda *x, **more: momentum_attention(*x, **NUMBERS, **more),
    "causal_momentum": lambda *x, **more: causal_momentum_attention(*x, **NUMBERS, **more),
}
DEPENDENT = {
    "the same": lambda x: (x, x, x),
    "k of q": lambda x: (x, x.square(), x.sin()),
    "q of k": lambda x: (x.square(), x, x.square().sin()),
}


def once_and_twice(function, x):
    """The gradient of a loss that isn't linear in the output, alone and with its graph, and a second derivative."""
    (alone,) = torch.autograd.grad(function(x).square().sum(), x)
    (once,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(once.square().sum(), x)
    return alone, once.detach(), twice


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [4, 150])  # either order, one chunk or several
@pytest.mark.parametrize("made", DEPENDENT.values(), ids=DEPENDENT)
@pytest.mark.parametrize("attention", OPS.values(), ids=OPS)
def test_attention_whose_inputs_depend_on_each_other(attention, made, length, padded):
    x = inputs(length, length, batch=2, dim=3)[0].detach().requires_grad_()
    mask = padding_mask(2, length, "left") if padded else None

    def function(x):
        return attention(*made(x), key_padding_mask=mask)

    def gradient(x):  # torch.func records every pass
        return torch.func.grad(lambda x: function(x).square().sum())(x)

    alone, once, twice = once_and_twice(function, x)
    expected = torch.func.grad(lambda x: gradient(x).square().sum())(x.detach())
    torch.testing.assert_close(once, alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(twice, expected, rtol=1e-9, atol=1e-9)


def assert_directions_go_together(function, leaves):
    """The gradients along three directions at once, as `torch.autograd.functional.jacobian` takes them, are those of each; under
    vmap, too."""
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    directions = [torch.randn(3, *output.shape, dtype=output.dtype) for output in outputs]
    options = {"retain_graph": True}
    batched = torch.autograd.grad(outputs, leaves, directions, is_grads_batched=True, **options)
    mapped = torch.vmap(lambda *along: torch.autograd.grad(outputs, leaves, along, **options))(*directions)
    each = [torch.autograd.grad(outputs, leaves, [x[i] for x in directions], **options) for i in range(3)]
    for together in (batched, mapped):
        for found, expected in zip(together, zip(*each, strict=True), strict=True):
            assert not found.requires_grad
            torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [4, 150])
@pytest.mark.parametrize("attention", OPS.values(), ids=OPS)
def test_attention_along_many_directions_at_once(attention, length, padded):
    mask = padding_mask(2, length, "left") if padded else None
    leaves = inputs(length, length, batch=2, dim=3)
    assert_directions_go_together(lambda *x: attention(*x, key_padding_mask=mask), leaves)


@pytest.mark.parametrize("by_velocity", [False, True])
def test_an_adaptive_step_along_many_directions_at_once(by_velocity):
    leaves = torch.randn(4, 5, 6, dtype=torch.float64).requires_grad_().unbind()
    assert_directions_go_together(lambda *x: adaptive_step(*x, by_velocity, step_size=0.9, delta=1e-3, eps=1e-6), leaves)


@pytest.mark.parametrize("by_velocity", [False, True])
def test_a_chain_of_adaptive_steps(by_velocity):
    def chain(step):
        def function(pushes):
            x, velocity, last = torch.zeros_like(pushes[0]), pushes[0], pushes[0]
            for push in pushes[1:]:
                x, velocity, _ = step(x, push, last, velocity, by_velocity, step_size=0.9, delta=1e-3, eps=1e-6)
                last = push
            return x

        return function

    pushes = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    ours, expected = (once_and_twice(chain(step), pushes) for step in (adaptive_step, plain_step))
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("only", range(4))
def test_an_adaptive_step_of_which_one_input_alone_takes_a_gradient(only):
    tensors = list(torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    tensors[only].requires_grad_()

    def function(step):
        out, velocity, _ = step(*tensors, False, step_size=0.9, delta=1e-3, eps=1e-6)
        return torch.autograd.grad((out * velocity.exp()).sum(), tensors[only], create_graph=True)[0]

    torch.testing.assert_close(function(adaptive_step), function(plain_step), rtol=1e-10, atol=1e-10)
