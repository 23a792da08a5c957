"""The step over a scaled state is the recurrence, however often the scale is renewed, and its state goes back and forth."""

import pytest
import torch

from momentum_fairseq.ops import MomentumState, causal_momentum_attention, momentum_attention_step, recurrent_momentum_attention
from momentum_fairseq.ops.scaled_momentum_step import LEAST_SCALE, ScaledMomentumState, plain_state, scaled_momentum_step_
from tests.ops.cases import MOMENTA, inputs

NUMBERS = {"step_size": 0.7}


def started(q, k, v, **numbers) -> ScaledMomentumState:
    """The state after the first position."""
    first = momentum_attention_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], None, **numbers)[1]
    return ScaledMomentumState.of(MomentumState(*(x.clone() for x in first)))


def steps(q, k, v, state, first, **numbers):
    found = []
    for i in range(first, q.shape[2]):
        out, state = scaled_momentum_step_(q[:, :, i], k[:, :, i], v[:, :, i], state, **numbers)
        found.append(out)
    return torch.stack(found, 2), state


@pytest.mark.parametrize("momentum", [*MOMENTA, 1e-20])
def test_steps_equal_the_recurrence(momentum):
    numbers = {"momentum": momentum, **NUMBERS}
    q, k, v = (x.detach() for x in inputs(90, 90))
    found, state = steps(q, k, v, started(q, k, v, **numbers), 1, **numbers)
    expected = recurrent_momentum_attention(q, k, v, **numbers)
    torch.testing.assert_close(found, expected[:, :, 1:], rtol=1e-10, atol=1e-12)
    _, whole = causal_momentum_attention(q, k, v, return_state=True, **numbers)
    for mine, other in zip(plain_state(state), whole, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    assert momentum > 0.7 or state.scale >= LEAST_SCALE


def test_in_float32_the_scale_is_renewed_before_its_inverse_overflows():
    numbers = {"momentum": 0.6, **NUMBERS}
    q, k, v = (x.detach() for x in inputs(200, 200))  # 0.6^200 is 4e-45
    low = [x.float() for x in (q, k, v)]
    found, _ = steps(*low, started(*low, **numbers), 1, **numbers)
    torch.testing.assert_close(found.double(), recurrent_momentum_attention(q, k, v, **numbers)[:, :, 1:], rtol=1e-4, atol=1e-5)


def test_the_state_is_written_over_and_needs_no_other_memory():
    numbers = {"momentum": 0.6, **NUMBERS}
    q, k, v = (x.detach() for x in inputs(3, 3))
    before = started(q, k, v, **numbers)
    after = steps(q, k, v, before, 1, **numbers)[1]
    assert [x.data_ptr() for x in after[:3]] == [x.data_ptr() for x in before[:3]]


def test_rows_that_change_places_go_on_with_their_own_state():
    numbers, order = {"momentum": 0.6, **NUMBERS}, torch.tensor([2, 0, 0])
    q, k, v = (x.detach() for x in inputs(9, 9))
    half = steps(q[:, :, :5], k[:, :, :5], v[:, :, :5], started(q, k, v, **numbers), 1, **numbers)[1]
    q, k, v = (x[order] for x in (q, k, v))
    found, _ = steps(q, k, v, half.reorder(order), 5, **numbers)
    expected = recurrent_momentum_attention(q, k, v, **numbers)[:, :, 5:]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
