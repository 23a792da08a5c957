"""Attention through q·k, where the products of a map's features are a function of it, is attention through those features."""

import math
from functools import partial

import pytest
import torch

from momentum_fairseq.ops import (
    FEATURE_MAPS,
    causal_linear_attention,
    causal_momentum_attention,
    causal_rows,
    linear_attention,
    momentum_attention,
    symmetric_momentum_attention,
)
from momentum_fairseq.ops.feature_maps import TaylorMap
from tests.ops.cases import SIDES, assert_same, inputs, padding_mask, value_and_gradients

TAYLOR = FEATURE_MAPS["taylor"]
NUMBERS = {"momentum": 0.6, "step_size": 0.7}
OPS = {
    "linear": linear_attention,
    "momentum": partial(momentum_attention, **NUMBERS),
    "symmetric momentum": partial(symmetric_momentum_attention, **NUMBERS),
    "causal linear": causal_linear_attention,
    "causal momentum": partial(causal_momentum_attention, **NUMBERS),
}
SHORT, LONG = 7, 33  # of D = 5 and M = 3, up to N = 31 through q·k, from then on through 21 features


@pytest.fixture(params=OPS)
def attention(request):
    return OPS[request.param]


def by_features(attention, q, k, v, mask=None, **numbers):
    return attention(TAYLOR(q), TAYLOR(k), v, key_padding_mask=mask, **numbers)


def by_products(attention, q, k, v, mask=None, **numbers):
    return attention(q, k, v, key_padding_mask=mask, feature_map=TAYLOR, **numbers)


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("length", [1, SHORT, LONG])
def test_products_do_as_features_do(attention, length, side):
    leaves = inputs(length, length)
    mask = None if side is None else padding_mask(3, length, side)
    ours, expected = (
        value_and_gradients(lambda take=take: take(attention, *leaves, mask), *leaves) for take in (by_products, by_features)
    )
    assert_same(ours, expected)


@pytest.mark.parametrize("attention", [momentum_attention, symmetric_momentum_attention, causal_momentum_attention])
def test_products_do_as_features_do_with_a_learned_momentum_for_each_head(attention):
    beta, gamma = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([0.3, 0.9], [0.5, 2.0]))
    leaves, numbers, mask = inputs(SHORT, SHORT), {"momentum": beta, "step_size": gamma}, padding_mask(3, SHORT, "left")
    ours, expected = (
        value_and_gradients(lambda take=take: take(attention, *leaves, mask, **numbers), *leaves, beta, gamma)
        for take in (by_products, by_features)
    )
    assert_same(ours, expected)


def test_gradients_are_the_derivatives_once_and_twice_in_several_steps(attention, monkeypatch):
    monkeypatch.setattr(causal_rows, "ROWS", 3)
    leaves, mask = inputs(SHORT, SHORT, batch=2, heads=1, dim=2, value_dim=3), padding_mask(2, SHORT, "both")
    takes = [partial(take, attention, *leaves, mask) for take in (by_products, by_features)]
    assert_same(*(value_and_gradients(take, *leaves) for take in takes))
    assert torch.autograd.gradgradcheck(lambda *x: by_products(attention, *x, mask), leaves, fast_mode=True)


@pytest.mark.parametrize("attention", [linear_attention, OPS["momentum"], OPS["symmetric momentum"]])
@pytest.mark.parametrize("queries, keys", [(2, 9), (9, 2), (0, 3), (3, 0)])
def test_queries_and_keys_may_differ_in_number(attention, queries, keys):
    leaves = inputs(queries, keys)
    torch.testing.assert_close(by_products(attention, *leaves), by_features(attention, *leaves))


def test_heads_without_features_weigh_all_keys_alike(attention):
    q, k, v = (x.detach() for x in inputs(2, 2))
    found = by_products(attention, q[..., :0], k[..., :0], v)
    torch.testing.assert_close(found, by_products(attention, torch.zeros_like(q), k, v))


def test_only_long_sequences_take_the_features(attention, monkeypatch):
    monkeypatch.setattr(TaylorMap, "__call__", lambda self, x: pytest.fail("took the features"))
    by_products(attention, *inputs(SHORT, SHORT))
    with pytest.raises(pytest.fail.Exception, match="took the features"):
        by_products(attention, *inputs(LONG, LONG))


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e200])
def test_garbage_in_the_padding_goes_nowhere(attention, garbage):
    q, k, v = inputs(SHORT, SHORT)
    mask = padding_mask(3, SHORT, "both")
    spoilt = [q, *(x.detach().masked_fill(mask[:, None, :, None], garbage).requires_grad_() for x in (k, v))]
    clean, ours = (value_and_gradients(lambda x=x: by_products(attention, *x, mask), *x) for x in ([q, k, v], spoilt))
    assert_same(ours, clean)


def test_a_row_of_padding_only_gives_zeros(attention):
    mask = padding_mask(3, SHORT, "left")
    mask[1] = True
    leaves = inputs(SHORT, SHORT)
    out, *gradients = value_and_gradients(lambda: by_products(attention, *leaves, mask), *leaves)
    assert out[1].eq(0).all()
    assert all(x.isfinite().all() for x in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(attention, dtype):
    q, k, v = inputs(20, 20, dtype=dtype)
    large = [(100 * x).detach() for x in (q, k)]  # s² is beyond float16
    exact = by_products(attention, *(x.double() for x in (*large, v)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = by_products(attention, *large, v)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=2 * torch.finfo(dtype).eps * v.abs().max().item())


@pytest.mark.parametrize("attention", [OPS["causal linear"], OPS["causal momentum"]])
def test_a_sequence_in_two_parts_is_the_whole(attention):
    q, k, v = (x.detach() for x in inputs(SHORT, SHORT))
    first, state = by_products(attention, *(x[:, :, :3] for x in (q, k, v)), return_state=True)
    second = by_products(attention, *(x[:, :, 3:] for x in (q, k, v)), initial_state=state)
    torch.testing.assert_close(torch.cat([first, second], dim=2), by_products(attention, q, k, v))


def test_they_trace_into_one_graph(attention):
    leaves = [x.detach() for x in inputs(SHORT, SHORT)]
    compiled = torch.compile(partial(by_products, attention), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*leaves), by_products(attention, *leaves))
