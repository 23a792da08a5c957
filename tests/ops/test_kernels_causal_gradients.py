"""Gradients of the causal kernels for β and γ, and gradients of gradients, against the float64 oracle."""

import pytest
import torch

pytest.importorskip("triton")

from momentum_fairseq.ops import (
    MomentumState,
    causal_linear_attention,
    causal_momentum_attention,
    elu_plus_one,
    recurrent_momentum_attention,
)
from momentum_fairseq.ops.kernel_choice import VARIABLE
from momentum_fairseq.ops.padding_free import padding_free_attention
from tests.ops.cases import relative_rms
from tests.ops.causal_kernel_cases import LINEAR, assert_exact, inputs, mask_of, split_into
from tests.ops.kernel_cases import DEVICE, doubled, draw

pytest_plugins = ["tests.ops.kernel_fixtures"]
pytestmark = pytest.mark.usefixtures("by_triton")


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("momentum", "step_size", "segments"),
    [([0.0, 0.999], [0.5, 2.0], 1), (0.6, [0.7, 1.5], 1), ([0.3, 0.9], 0.7, 1), ([0.3, 0.999], [0.5, 2.0], 3)],
)
def test_numbers_of_each_head_take_gradients(momentum, step_size, segments, monkeypatch):
    split_into(monkeypatch, segments)
    numbers = [torch.tensor(x, device=DEVICE, requires_grad=True) if isinstance(x, list) else x for x in (momentum, step_size)]
    mask, learned = mask_of(33, "inside", batch=1), [x for x in numbers if isinstance(x, torch.Tensor)]

    def attention(of):
        def function(q, k, v, *given):
            rest = list(given)
            beta, gamma = (rest.pop(0) if isinstance(x, torch.Tensor) else x for x in numbers)
            return of(q, k, v, momentum=beta, step_size=gamma, key_padding_mask=mask)

        return function

    leaves = [*inputs(33, batch=1, heads=2), *learned]
    assert_exact(attention(causal_momentum_attention), attention(recurrent_momentum_attention), leaves)


@pytest.mark.usefixtures("small_tiles")
def test_one_learned_number_serves_all_heads():
    leaves = [*inputs(17, batch=1, heads=2), *(torch.tensor(x, device=DEVICE, requires_grad=True) for x in (0.5, 2.0))]
    assert_exact(
        lambda q, k, v, b, g: causal_momentum_attention(q, k, v, momentum=b, step_size=g),
        lambda q, k, v, b, g: recurrent_momentum_attention(q, k, v, momentum=b, step_size=g),
        leaves,
    )


def twice(attention, leaves):
    """The output, its gradients along a direction, and the gradients of those along directions, for the leaves and the first."""
    direction = draw(2, 1, 20, 8, seed=9).to(leaves[0].dtype).requires_grad_()
    once = torch.autograd.grad(attention(*leaves), leaves, direction, create_graph=True)
    directions = [draw(*x.shape, seed=i).to(x.dtype) for i, x in enumerate(once)]
    return [*once, *torch.autograd.grad(once, [*leaves, direction], directions)]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", ["momentum", "learned", "linear"])
def test_second_derivatives_are_those_of_the_recurrence(kind, monkeypatch):
    mask, leaves = mask_of(20, "inside"), inputs(20)
    numbers = dict(zip(("momentum", "step_size"), (0.9, 0.7), strict=True))
    if kind == "learned":
        leaves += [torch.tensor([x], device=DEVICE, requires_grad=True) for x in numbers.values()]

    def attention(of, given):
        def function(q, k, v, *learned):
            own = dict(zip(numbers, learned, strict=True)) if learned else given
            return of(q, k, v, key_padding_mask=mask, **own)

        return function

    kernel, given = (causal_linear_attention, {}) if kind == "linear" else (causal_momentum_attention, numbers)
    ours = twice(attention(kernel, given), leaves)
    exact = twice(attention(recurrent_momentum_attention, LINEAR if kind == "linear" else numbers), doubled(leaves))
    assert all(relative_rms(a, b) <= 5e-6 for a, b in zip(ours, exact, strict=True))


@pytest.mark.usefixtures("small_tiles")
def test_second_derivatives_go_through_states_the_feature_map_and_sequences_without_padding():
    q, k, v = inputs(20, batch=1, mapped=False)
    state = [x.requires_grad_() for x in (draw(2, 1, 8, 8, seed=4), draw(2, 1, 8, 8, seed=5), draw(2, 1, 8, seed=6).exp())]
    cu = torch.tensor([0, 13, 20], device=DEVICE)

    def results(dtype):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v, *state)]
        out, last = padding_free_attention(
            causal_momentum_attention, *leaves[:3], cu_seqlens=cu, initial_state=MomentumState(*leaves[3:]), return_state=True,
            momentum=0.9, step_size=0.7, feature_map=elu_plus_one,
        )  # fmt: skip
        loss = sum((draw(*x.shape, seed=i).to(dtype) * x).sum() for i, x in enumerate((out, *last)))
        once = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(sum((x**2).sum() for x in once), leaves)

    ours = results(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "torch")
        exact = results(torch.float64)
    assert all(relative_rms(a, b) <= 1e-5 for a, b in zip(ours, exact, strict=True))


@pytest.mark.usefixtures("small_tiles")
def test_second_derivatives_where_queries_keys_values_and_the_first_gradient_depend_on_each_other(monkeypatch):
    x = inputs(20)[0]

    def result(dtype):
        leaf = x.detach().to(dtype).requires_grad_()
        out = causal_momentum_attention(leaf.square(), leaf, leaf.square().sin(), momentum=0.9, step_size=0.7)
        (once,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(once.square().sum(), leaf)[0]

    ours = result(torch.float32)
    monkeypatch.setenv(VARIABLE, "torch")
    assert relative_rms(ours, result(torch.float64)) <= 1e-5
