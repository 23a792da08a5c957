"""The passes written by hand against the recorded form, and what only they could get wrong."""

import os
from functools import partial
from shutil import which

import pytest
import torch

from momentum_fairseq.ops import (
    causal_chunks,
    causal_linear_attention,
    causal_momentum_attention,
    causal_rows,
    momentum_attention,
)
from momentum_fairseq.ops.causal_chunks import number_of_chunks
from tests.ops.cases import assert_same, float32_errors, inputs, padding_mask, value_and_gradients

ATTENTIONS = {
    "linear": causal_linear_attention,
    "momentum": lambda q, k, v, **more: causal_momentum_attention(q, k, v, momentum=0.9, step_size=0.7, **more),
    "small momentum": lambda q, k, v, **more: causal_momentum_attention(q, k, v, momentum=0.002, step_size=0.7, **more),
}


@pytest.fixture(params=ATTENTIONS)
def attention(request):
    return ATTENTIONS[request.param]


@pytest.fixture(params=[False, True], ids=["no padding", "padding"])
def masked(request):
    return request.param


@pytest.fixture(params=["rows", "chunks"])
def _several(request, monkeypatch):
    """Sequences of 23 positions in several steps of either kind."""
    monkeypatch.setattr(causal_rows, "ROWS", 5)
    monkeypatch.setattr(causal_chunks, "CHUNK", 64 if request.param == "rows" else 4)
    assert (number_of_chunks(23, 2, 2, matrices=2) == 1) == (request.param == "rows")


@pytest.mark.usefixtures("_several")
def test_it_is_the_recorded_form_which_serves_where_the_state_is_asked_for(attention, masked):
    q, k, v = inputs(23, 23, dim=2, value_dim=2)
    mask = padding_mask(3, 23, "both") if masked else None
    ours = value_and_gradients(lambda: attention(q, k, v, key_padding_mask=mask), q, k, v)
    recorded = value_and_gradients(lambda: attention(q, k, v, key_padding_mask=mask, return_state=True)[0], q, k, v)
    assert_same(ours, recorded)


@pytest.mark.usefixtures("_several")
def test_gradcheck_once_and_twice(attention, masked):
    leaves = inputs(23, 23, batch=2, heads=1, dim=2, value_dim=2)
    mask = padding_mask(2, 23, "left") if masked else None
    assert torch.autograd.gradcheck(lambda *x: attention(*x, key_padding_mask=mask), leaves)
    assert torch.autograd.gradgradcheck(lambda *x: attention(*x, key_padding_mask=mask), leaves, fast_mode=True)


@pytest.mark.usefixtures("_several")
def test_a_gradient_is_taken_of_those_inputs_only_that_ask_for_one(attention):
    q, k, v = inputs(23, 23, dim=2, value_dim=2)
    whole = torch.autograd.grad(attention(q, k, v).square().sum(), (q, k, v))
    for i, name in enumerate("qkv"):
        leaves = [x.detach() for x in (q, k, v)]
        leaves[i].requires_grad_()
        for create_graph in (False, True):
            (own,) = torch.autograd.grad(attention(*leaves).square().sum(), leaves[i], create_graph=create_graph)
            torch.testing.assert_close(own, whole[i], msg=lambda text, name=name: f"{name}: {text}")


def test_two_runs_are_equal_bit_for_bit(attention, masked):
    leaves = inputs(300, 300, dim=32, value_dim=32, dtype=torch.float32)
    mask = padding_mask(3, 300, "right") if masked else None
    first, second = (value_and_gradients(lambda: attention(*leaves, key_padding_mask=mask), *leaves) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_the_state_is_carried_over_groups_of_chunks_as_over_one_after_the_other(attention, groups, monkeypatch):
    monkeypatch.setattr(causal_chunks, "CHUNK", 2)
    q, k, v = inputs(2 * 16 * groups + 3, 2 * 16 * groups + 3, batch=1)
    no_padding = torch.zeros(1, k.shape[2], dtype=torch.bool)  # a mask makes the chunks differ
    grouped, single = (
        value_and_gradients(lambda mask=mask: attention(q, k, v, key_padding_mask=mask), q, k, v) for mask in (None, no_padding)
    )
    assert_same(grouped, single)


@pytest.mark.parametrize("momentum", [0.1, 0.9, 0.999, 0.99999])
def test_the_error_of_float32_gradients_does_not_grow_with_the_momentum(momentum):
    attention = partial(causal_momentum_attention, momentum=momentum, step_size=1.0)
    assert max(float32_errors(attention, length=2048)) <= 1e-6


class Both(torch.nn.Module):
    """A module that uses attention, causal and not."""

    def forward(self, q, k, v):
        numbers = {"momentum": 0.9, "step_size": 0.7}
        return causal_momentum_attention(q, k, v, **numbers) + momentum_attention(q, k, v, **numbers)


@pytest.mark.parametrize("length", [100, 300])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_module_that_uses_it_is_one_graph_to_torch_compile(backend, length):
    if backend == "inductor" and which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler, which torch.compile needs on a CPU")
    torch.compiler.reset()
    leaves = inputs(length, length, batch=1, dim=16, value_dim=16, dtype=torch.float32)
    compiled = torch.compile(Both(), fullgraph=True, backend=backend)
    ours, eager = (value_and_gradients(lambda module=module: module(*leaves), *leaves) for module in (compiled, Both()))
    assert_same(ours, eager, tolerance=1e-4)
