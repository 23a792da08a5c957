"""The passes written by hand against the recorded ones, which `test_linear_attention` holds to the oracle."""

from functools import partial

import pytest
import torch

from momentum_fairseq.ops import linear_attention, momentum_attention
from momentum_fairseq.ops.feature_maps import TaylorMap
from momentum_fairseq.ops.kernel_choice import kernel
from momentum_fairseq.ops.linear_attention import linear_order, quadratic_order
from momentum_fairseq.ops.momentum_attention import STEADY, steady_weights
from momentum_fairseq.ops.momentum_weights import unpadded_weights
from momentum_fairseq.ops.noncausal_by_hand import attention_by_hand
from tests.ops.cases import MOMENTA, SIDES, assert_same, inputs, padding_mask, value_and_gradients

TAYLOR = TaylorMap()
ORDERS = {"quadratic": quadratic_order, "products": partial(quadratic_order, product_map=TAYLOR), "linear": linear_order}
CPU, EXACT = torch.device("cpu"), torch.float64


@pytest.fixture(params=ORDERS)
def order(request):
    return request.param


def both_forms(order, q, k, v, weights=None, padding=None, steady=None):
    """By hand and recorded: calls without arguments."""
    plain = partial(ORDERS[order], padding=padding, eps=1e-6)
    product_map = TAYLOR if order == "products" else None
    by_hand = partial(attention_by_hand, q, k, v, weights, steady, padding, 1e-6, order != "linear", plain, product_map)
    return by_hand, lambda: plain(q, k, v, weights)


@pytest.mark.parametrize("shape", [None, (9,), (2, 9), (3, 1, 9), (3, 2, 9)])
@pytest.mark.parametrize("queries", [1, 4, 30])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_values_and_gradients_are_those_of_the_recorded_passes(order, learned, padded, queries, shape):
    leaves = inputs(queries, 9)
    padding = padding_mask(3, 9, "both")[:, None, :, None] if padded else None
    weights = None if shape is None else torch.rand(shape, dtype=EXACT)
    if weights is not None and learned:
        weights.requires_grad_()
        leaves = *leaves, weights
    by_hand, recorded = both_forms(order, *leaves[:3], weights, padding)
    assert_same(value_and_gradients(by_hand, *leaves), value_and_gradients(recorded, *leaves))
    with torch.no_grad():
        assert_same([by_hand()], [recorded()])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("keys", [3, 30])
def test_gradients_of_a_learned_momentum_and_step_size_are_the_references_whatever_is_padding(keys, side):
    leaves, mask = inputs(keys, keys), padding_mask(3, keys, side)
    numbers = torch.tensor([[0.3, 0.9], [0.7, 0.2]], dtype=EXACT).requires_grad_().unbind()

    def attention():
        return momentum_attention(*leaves, momentum=numbers[0], step_size=numbers[1], key_padding_mask=mask)

    by_hand = value_and_gradients(attention, *leaves, *numbers)
    with kernel("reference"):
        assert_same(by_hand, value_and_gradients(attention, *leaves, *numbers))


@pytest.mark.parametrize("momentum", MOMENTA)
def test_steady_weights_are_the_weights(momentum):
    weights = unpadded_weights(65, momentum, 0.7, EXACT, CPU)
    steady = steady_weights(65, momentum, 0.7, EXACT, CPU)
    whole = torch.full((65,), steady.scale, dtype=EXACT)
    if steady.rest is not None:
        whole[steady.first :] *= steady.rest
    torch.testing.assert_close(whole, weights, rtol=1e-15, atol=0)
    assert (steady.first > 0) == (momentum < 0.5)


@pytest.mark.parametrize("momentum", [0.0, 0.1])
def test_steady_weights_give_the_same_values_and_gradients(order, momentum):
    leaves, weights = inputs(8, 40), unpadded_weights(40, momentum, 0.7, EXACT, CPU)
    steady = steady_weights(40, momentum, 0.7, EXACT, CPU)
    assert 0 < steady.first < 40 or steady.rest is None
    by_hand, recorded = both_forms(order, *leaves, weights, steady=steady)
    assert_same(value_and_gradients(by_hand, *leaves), value_and_gradients(recorded, *leaves))


def test_first_and_second_gradients_are_the_derivatives(order):
    padding = padding_mask(2, 4, "left")[:, None, :, None]

    def function(q, k, v, weights):
        return both_forms(order, q, k, v, weights, padding)[0]()

    weights = torch.tensor([3.0, 2, 1.5, 1], dtype=EXACT, requires_grad=True)
    leaves = *inputs(3, 4, batch=2, dim=2, value_dim=3), weights
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("held", range(3))
def test_a_gradient_that_is_not_asked_for_changes_nothing(order, held):
    leaves = list(inputs(5, 9))
    by_hand, recorded = both_forms(order, *leaves)
    expected = value_and_gradients(recorded, *leaves)
    rest = [x for i, x in enumerate(leaves) if i != held]
    leaves[held] = leaves[held].detach()
    found = value_and_gradients(both_forms(order, *leaves)[0], *rest)
    assert_same(found, expected[: 1 + held] + expected[2 + held :])


@pytest.mark.parametrize("queries", [2, 30])
@pytest.mark.parametrize("attention", [linear_attention, partial(momentum_attention, momentum=0.6, step_size=1.0)])
def test_padding_may_hold_nans_which_reach_neither_values_nor_gradients(attention, queries):
    q, k, v = inputs(queries, 9)
    mask = padding_mask(3, 9, "both")
    padding = mask[:, None, :, None]
    expected = value_and_gradients(lambda: attention(q, k, v, key_padding_mask=mask), q, k, v)
    k, v = (x.detach().masked_fill(padding, torch.nan).requires_grad_() for x in (k, v))
    assert_same(value_and_gradients(lambda: attention(q, k, v, key_padding_mask=mask), q, k, v), expected, tolerance=0)


def test_a_long_sequence_is_the_recorded_one():
    q, k, v = inputs(STEADY, STEADY + 3, batch=1)
    weights = unpadded_weights(STEADY + 3, 0.6, 0.7, EXACT, CPU)
    ours = value_and_gradients(lambda: momentum_attention(q, k, v, momentum=0.6, step_size=0.7), q, k, v)
    assert_same(ours, value_and_gradients(lambda: linear_order(q, k, v, weights, None, 1e-6), q, k, v))


def test_a_long_sequence_with_padding_counts_its_own_keys():
    mask = padding_mask(2, STEADY + 3, "right")
    q, k, v = (x.detach() for x in inputs(4, STEADY + 3, batch=2))
    alone = momentum_attention(q[1:], k[1:, :, ~mask[1]], v[1:, :, ~mask[1]], momentum=0.6, step_size=0.7)
    assert_same([momentum_attention(q, k, v, momentum=0.6, step_size=0.7, key_padding_mask=mask)[1:]], [alone])


def test_what_comes_in_is_not_written_over(order):
    leaves = inputs(5, 9)
    before = [x.detach().clone() for x in leaves]
    value_and_gradients(both_forms(order, *leaves, torch.rand(9, dtype=EXACT))[0], *leaves)
    assert_same(leaves, before, tolerance=0)
