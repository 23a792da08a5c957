"""Causal momentum attention where β is so small that all keys but recent ones weigh the same."""

from functools import partial
from unittest import mock

import pytest
import torch

from momentum_fairseq.ops import causal_by_hand, causal_momentum_attention, recurrent_momentum_attention
from momentum_fairseq.ops.momentum_weights import recent_weights
from tests.ops.cases import assert_same, float32_errors, inputs, value_and_gradients

CPU = torch.device("cpu")


@pytest.mark.parametrize("length", [256, 257, 319, 320])
@pytest.mark.parametrize("momentum", [0.0, 1e-30, 0.1, 0.3, 0.5])
def test_it_is_the_recurrence(momentum, length):
    q, k, v = inputs(length, length, dim=3, value_dim=2)
    numbers = {"momentum": momentum, "step_size": 0.7}
    with mock.patch.object(causal_by_hand, "across", wraps=causal_by_hand.across) as across:
        ours = value_and_gradients(lambda: causal_momentum_attention(q, k, v, **numbers), q, k, v)
    assert across.called == (momentum > 1e-30)
    assert_same(ours, value_and_gradients(lambda: recurrent_momentum_attention(q, k, v, **numbers), q, k, v))


def test_a_step_size_a_head_takes_a_state_of_two_matrices():
    q, k, v = (x.detach() for x in inputs(320, 320, dim=3, value_dim=2))
    numbers = {"momentum": 0.1, "step_size": torch.tensor([0.5, 2.0], dtype=torch.float64)}
    assert_same([causal_momentum_attention(q, k, v, **numbers)], [recurrent_momentum_attention(q, k, v, **numbers)])


@pytest.mark.parametrize("momentum", [0.1, 0.6, 0.75])
def test_no_digits_of_float32_are_lost(momentum):
    assert recent_weights(64, momentum, 1.0, torch.float32, CPU) is not None
    attention = partial(causal_momentum_attention, momentum=momentum, step_size=1.0)
    assert max(float32_errors(attention, length=2048)) <= 5e-7


def test_what_is_left_out_is_rounded_away_and_what_is_not_is_there():
    size = 64
    weights = recent_weights(size, 0.6, 0.7, torch.float32, CPU)
    recent = len(weights.before)
    distance = torch.arange(recent).unsqueeze(-1) + recent - torch.arange(recent)  # of the last keys to the first queries
    exact = 0.7 * (1 - 0.6 ** (distance.double() + 1)) / (1 - 0.6)
    torch.testing.assert_close(weights.steady + weights.before.double(), exact, rtol=1e-7, atol=0)
    one = torch.ones((), dtype=torch.float32)
    assert one - 0.6 ** (recent + 2) == 1 and one - 0.6 ** (recent + 1) != 1


def test_more_recent_keys_than_a_chunk_has_take_a_state_of_two_matrices():
    recent = len(recent_weights(64, 0.6, 1.0, torch.float32, CPU).before)
    assert recent_weights(recent, 0.6, 1.0, torch.float32, CPU) is not None
    assert recent_weights(recent - 1, 0.6, 1.0, torch.float32, CPU) is None
    assert recent_weights(64, 0.9, 1.0, torch.float32, CPU) is None


@pytest.mark.parametrize("row", [0, 100, 319])
def test_a_value_that_is_not_a_number_reaches_its_future_and_no_other_head(row):
    q, k, v = (x.detach() for x in inputs(320, 320, dim=3, value_dim=2))
    v[1, 0, row] = float("nan")
    hit = causal_momentum_attention(q, k, v, momentum=0.3, step_size=1.0).isnan().any(-1)
    assert hit[1, 0, row:].all()
    hit[1, 0] = False
    assert not hit.any()


@pytest.mark.parametrize("row", [0, 319])
def test_neither_does_a_gradient_that_is_not_a_number(row):
    q, k, v = inputs(320, 320, dim=3, value_dim=2)
    out = causal_momentum_attention(q, k, v, momentum=0.3, step_size=1.0)
    direction = torch.ones_like(out)
    direction[1, 0, row] = float("nan")
    for gradient in torch.autograd.grad(out, (q, k, v), direction):
        hit = gradient.isnan().any(-1)
        assert hit[1, 0].any()
        hit[1, 0] = False
        assert not hit.any()
