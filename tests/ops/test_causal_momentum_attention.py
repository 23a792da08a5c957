import math

import pytest
import torch

from momentum_fairseq.ops import (
    causal_chunks,
    causal_linear_attention,
    causal_momentum_attention,
    momentum_attention,
    momentum_attention_step,
    recurrent_momentum_attention,
)
from momentum_fairseq.ops.causal_chunks import number_of_chunks
from tests.ops.cases import MOMENTA, SIDES, assert_same, inputs, padding_mask, value_and_gradients


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr(causal_chunks, "CHUNK", 8)


def assert_is_the_oracle(q, k, v, mask, momentum, step_size):
    numbers = dict(momentum=momentum, step_size=step_size, key_padding_mask=mask)
    leaves = [q, k, v, *(x for x in (momentum, step_size) if isinstance(x, torch.Tensor))]
    ours = value_and_gradients(lambda: causal_momentum_attention(q, k, v, **numbers), *leaves)
    assert_same(ours, value_and_gradients(lambda: recurrent_momentum_attention(q, k, v, **numbers), *leaves))


def per_head(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("length", [7, 65])
def test_it_is_the_recurrence_for_every_momentum(length, momentum, side):
    assert_is_the_oracle(*inputs(length, length), padding_mask(3, length, side), momentum, 0.7)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    "momentum, step_size",
    [
        (0.6, per_head(0.5, 2.0)),
        (per_head(0.3, 0.95), 0.5),
        (per_head(0.0, 0.999), per_head(0.5, 2.0)),
        (torch.tensor(0.5, dtype=torch.float64).requires_grad_(), 1.0),
    ],
)
@pytest.mark.parametrize("length", [7, 65])
def test_it_is_the_recurrence_with_learned_numbers(length, momentum, step_size, masked):
    mask = padding_mask(3, length, "both") if masked else None
    assert_is_the_oracle(*inputs(length, length), mask, momentum, step_size)


def test_gradcheck_of_learned_numbers_through_a_state():
    q, k, v = inputs(23, 23, batch=1, dim=2, value_dim=1)
    mask, beta, gamma = padding_mask(2, 23, "left")[1:], per_head(0.3, 0.9), per_head(0.5, 2.0)

    def function(q, k, v, beta, gamma):
        numbers = dict(momentum=beta, step_size=gamma, return_state=True)
        _, state = causal_momentum_attention(q[:, :, :3], k[:, :, :3], v[:, :, :3], **numbers)
        out, state = causal_momentum_attention(q, k, v, key_padding_mask=mask, initial_state=state, **numbers)
        step, _ = momentum_attention_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], state, momentum=beta, step_size=gamma)
        return out, step

    assert number_of_chunks(23, 2, 1, matrices=2) == 3
    assert torch.autograd.gradcheck(function, (q, k, v, beta, gamma))


def test_steps_with_one_number_a_head_give_what_all_positions_at_once_give():
    tensors, numbers = [x.detach() for x in inputs(9, 9)], dict(momentum=per_head(0.3, 0.95), step_size=per_head(0.5, 2.0))
    with torch.no_grad():
        expected, expected_state = causal_momentum_attention(*tensors, return_state=True, **numbers)
        for in_place in (False, True):
            state = None
            for i in range(9):
                out, state = momentum_attention_step(*(x[:, :, i] for x in tensors), state, in_place=in_place, **numbers)
                assert_same([out], [expected[:, :, i]])
            assert_same(state, expected_state)


def test_the_state_is_that_of_equation_12():
    """Two keys by hand: m = −(β k₁v₁ + k₂v₂), s = γ((1 + β) k₁v₁ + k₂v₂), z = k₁ + k₂."""
    k, v = (torch.tensor(x, dtype=torch.float64).reshape(1, 1, 2, 1) for x in ([2.0, 3.0], [5.0, 7.0]))
    _, state = causal_momentum_attention(k, k, v, momentum=0.5, step_size=2.0, return_state=True)
    assert [x.item() for x in state] == [2 * (1.5 * 10 + 21), -(0.5 * 10 + 21), 5]


@pytest.mark.parametrize("length", [7, 65])
def test_zero_momentum_is_step_size_times_linear_attention(length):
    q, k, v = inputs(length, length)
    mask = padding_mask(3, length, "both")
    ours = causal_momentum_attention(q, k, v, momentum=0.0, step_size=3.0, key_padding_mask=mask)
    assert_same([ours], [3 * causal_linear_attention(q, k, v, key_padding_mask=mask)])


@pytest.mark.parametrize("side", SIDES)
def test_the_last_row_is_that_of_the_form_that_is_not_causal(side):
    q, k, v = inputs(65, 65)
    numbers = dict(momentum=0.9, step_size=0.5, key_padding_mask=padding_mask(3, 65, side))
    assert_same([causal_momentum_attention(q, k, v, **numbers)[:, :, -1]], [momentum_attention(q, k, v, **numbers)[:, :, -1]])


@pytest.mark.parametrize("momentum", MOMENTA)
def test_one_key_alone_gives_step_size_times_its_value(momentum):
    q, k, v = inputs(1, 1)
    assert_same([causal_momentum_attention(q, k, v, momentum=momentum, step_size=0.5, eps=0.0)], [0.5 * v])


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_a_momentum_outside_0_1_is_refused_by_its_value(momentum):
    q, k, v = inputs(2, 2)
    with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
        causal_momentum_attention(q, k, v, momentum=momentum, step_size=1.0)
    with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
        momentum_attention_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], None, momentum=momentum, step_size=1.0)


@pytest.mark.parametrize("step_size", [0, -1.0, math.nan, math.inf])
def test_a_step_size_that_is_not_positive_is_refused_by_its_value(step_size):
    q, k, v = inputs(2, 2)
    with pytest.raises(ValueError, match=f"step_size must be positive and finite, got {step_size}"):
        causal_momentum_attention(q, k, v, momentum=0.5, step_size=step_size)
    with pytest.raises(ValueError, match=f"step_size must be positive and finite, got {step_size}"):
        momentum_attention_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], None, momentum=0.5, step_size=step_size)
