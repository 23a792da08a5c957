import pytest
import torch

from momentum_fairseq.ops import linear_attention, recurrent_momentum_attention
from momentum_fairseq.ops.contraction_order import quadratic_order_is_cheaper
from momentum_fairseq.ops.linear_attention import linear_order, quadratic_order
from tests.ops.cases import LENGTHS, SIDES, assert_same, inputs, padding_mask, value_and_gradients


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_recurrence_without_momentum(length, side):
    q, k, v = inputs(length, length)
    mask = padding_mask(3, length, side)
    numbers = dict(momentum=0.0, step_size=1.0, key_padding_mask=mask, causal=False)
    ours = value_and_gradients(lambda: linear_attention(q, k, v, key_padding_mask=mask), q, k, v)
    assert_same(ours, value_and_gradients(lambda: recurrent_momentum_attention(q, k, v, **numbers), q, k, v))


def test_it_is_the_formula():
    q, k, v = inputs(6, 9)
    mask = padding_mask(3, 9, "both")
    scores = torch.einsum("bhnd,bhsd->bhns", q, k) * ~mask[:, None, None]
    expected = torch.einsum("bhns,bhsm->bhnm", scores, v) / (scores.sum(-1, keepdim=True) + 1e-6)
    assert_same([linear_attention(q, k, v, key_padding_mask=mask)], [expected])


@pytest.mark.parametrize("weights_shape", [None, (9,), (2, 9), (3, 1, 9), (3, 2, 9)])
@pytest.mark.parametrize("queries", [1, 4, 30])
@pytest.mark.parametrize("padded", [False, True])
def test_both_orders_are_one_function(padded, queries, weights_shape):
    q, k, v = inputs(queries, 9)
    leaves = [q, k, v]
    padding = padding_mask(3, 9, "both")[:, None, :, None] if padded else None
    weights = None
    if weights_shape is not None:
        weights = torch.rand(weights_shape, dtype=torch.float64, requires_grad=True)
        leaves.append(weights)
    linear, quadratic = (
        value_and_gradients(lambda order=order: order(q, k, v, weights, padding, 1e-6), *leaves)
        for order in (linear_order, quadratic_order)
    )
    assert_same(quadratic, linear)
    with torch.no_grad():
        assert_same([order(q, k, v, weights, padding, 1e-6) for order in (linear_order, quadratic_order)], [linear[0]] * 2)


@pytest.mark.parametrize("length, expected", [(1, True), (25, True), (138, True), (139, True), (140, False)])
def test_the_order_turns_where_the_length_passes_the_dimension(length, expected):
    assert quadratic_order_is_cheaper(length, length, 139, 139) is expected


@pytest.mark.parametrize("queries, keys, dim, value_dim", [(1, 4096, 32, 32), (4096, 1, 32, 32), (7, 50, 8, 16)])
def test_the_order_taken_multiplies_least(queries, keys, dim, value_dim):
    quadratic = queries * keys * dim + queries * keys * value_dim
    linear = keys * dim * value_dim + queries * dim * value_dim
    assert quadratic_order_is_cheaper(queries, keys, dim, value_dim) is (quadratic <= linear)


@pytest.mark.parametrize("length", [3, 9])
def test_gradcheck(length):
    mask = padding_mask(2, length, "left")
    leaves = inputs(length, length, batch=2)
    assert torch.autograd.gradcheck(lambda q, k, v: linear_attention(q, k, v, key_padding_mask=mask), leaves)


@pytest.mark.parametrize("length", [4, 30])
def test_a_row_of_padding_only_gives_zeros_and_finite_gradients(length):
    q, k, v = inputs(length, length)
    mask = padding_mask(3, length, "left")
    mask[2] = True
    out, *gradients = value_and_gradients(lambda: linear_attention(q, k, v, key_padding_mask=mask), q, k, v)
    assert out[2].eq(0).all()
    assert all(x.isfinite().all() for x in (out, *gradients))


def test_no_keys_at_all_give_zeros():
    q, k, v = inputs(4, 0)
    assert linear_attention(q, k, v).eq(0).all()
