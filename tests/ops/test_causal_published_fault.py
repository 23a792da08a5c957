"""The published causal form weights by distance to the padded end of the sequence; put into the op, the checks catch it."""

import sys

import pytest
import torch

from momentum_fairseq.ops import causal_momentum_attention, momentum_attention, recurrent_momentum_attention
from momentum_fairseq.ops.momentum_weights import count_keys, growth_by_count, look_up
from tests.ops.cases import inputs, padding_mask

NUMBERS = {"momentum": 0.6, "step_size": 1.0}


def weights_to_the_end(size, real, momentum, step_size, dtype, device):
    """In place of `weights_within`: a key's weight is the same for every query, that of the padded end."""
    rank, _ = count_keys(size, None, device)
    growth = growth_by_count(size, momentum, step_size, device).to(dtype)
    return look_up(growth, (size - rank + 1).unsqueeze(-2).expand(-1, -1, size, -1))


@pytest.fixture
def _fault(monkeypatch):
    monkeypatch.setattr(sys.modules[causal_momentum_attention.__module__], "weights_within", weights_to_the_end)


def is_the_recurrence(**options):
    tensors = inputs(10, 10)
    ours = causal_momentum_attention(*tensors, **NUMBERS, **options)
    return torch.allclose(ours, recurrent_momentum_attention(*tensors, **NUMBERS, **options), atol=1e-10)


def is_the_recurrence_with_padding():
    return is_the_recurrence(key_padding_mask=padding_mask(3, 10, "right"))


def keeps_the_prefix():
    tensors = inputs(10, 10)
    prefix = causal_momentum_attention(*(x[:, :, :6] for x in tensors), **NUMBERS)
    return torch.allclose(causal_momentum_attention(*tensors, **NUMBERS)[:, :, :6], prefix, atol=1e-10)


def averages_the_first_value():
    q, k, v = inputs(10, 10)
    return torch.allclose(causal_momentum_attention(q, k, v, **NUMBERS)[:, :, 0], v[:, :, 0], rtol=1e-4)


CHECKS = [is_the_recurrence, is_the_recurrence_with_padding, keeps_the_prefix, averages_the_first_value]


@pytest.mark.parametrize("check", CHECKS)
def test_the_op_passes_each_check(check):
    assert check()


@pytest.mark.usefixtures("_fault")
@pytest.mark.parametrize("check", CHECKS)
def test_a_check_catches_the_fault(check):
    assert not check()


@pytest.mark.usefixtures("_fault")
def test_the_fault_spares_the_last_row_only():
    """So that it is the published fault, not just any."""
    tensors = inputs(10, 10)
    ours, right = causal_momentum_attention(*tensors, **NUMBERS), recurrent_momentum_attention(*tensors, **NUMBERS)
    torch.testing.assert_close(ours[:, :, -1], right[:, :, -1])
    torch.testing.assert_close(ours[:, :, -1], momentum_attention(*tensors, **NUMBERS)[:, :, -1])
    errors = (ours - right).norm(dim=-1) / right.norm(dim=-1)
    assert errors[:, :, :-1].mean() > 0.1
