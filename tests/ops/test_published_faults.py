"""The faults of the published research code, put in one by one: the checks that the op passes catch each of them."""

import pytest
import torch

from momentum_fairseq.ops import momentum_attention, recurrent_momentum_attention
from tests.ops.cases import inputs, padding_mask

MOMENTUM = 0.6


def attend(q, k, v, weights, *, key_padding_mask=None, causal=False, normalised=True):
    scores = q @ k.transpose(-1, -2)
    if key_padding_mask is not None:
        scores = scores.masked_fill(key_padding_mask[:, None, None], 0)
    if causal:
        scores = scores.tril()
    out = (scores * weights) @ v
    return out / (scores.sum(-1, keepdim=True) + 1e-6) if normalised else out


def weights_of_distance(distance):
    return (1 - MOMENTUM ** (distance + 1.0)) / (1 - MOMENTUM)


def to_the_padded_end(k):
    return weights_of_distance(torch.arange(k.shape[2] - 1, -1, -1, dtype=k.dtype))


def correct(q, k, v, mask):
    return momentum_attention(q, k, v, momentum=MOMENTUM, step_size=1.0, key_padding_mask=mask)


def padded_number_of_keys(q, k, v, mask):
    return attend(q, k, v, to_the_padded_end(k), key_padding_mask=mask)


def unmasked_keys(q, k, v, mask):
    count = (~mask).flip(-1).cumsum(-1).flip(-1)
    return attend(q, k, v, weights_of_distance(count - 1.0)[:, None, None])


def no_normaliser(q, k, v, mask):
    count = (~mask).flip(-1).cumsum(-1).flip(-1)
    return attend(q, k, v, weights_of_distance(count - 1.0)[:, None, None], key_padding_mask=mask, normalised=False)


def is_the_recurrence(attention):
    q, k, v = inputs(10, 10)
    mask = padding_mask(3, 10, "right")
    numbers = dict(momentum=MOMENTUM, step_size=1.0, key_padding_mask=mask, causal=False)
    return torch.allclose(attention(q, k, v, mask), recurrent_momentum_attention(q, k, v, **numbers), atol=1e-10)


def ignores_batch_mates(attention):
    """20 words padded to 25 beside a longer sentence, and alone."""
    q, k, v = inputs(25, 25, batch=2)
    mask = torch.arange(25) >= torch.tensor([[20], [25]])
    alone = attention(q[:1, :, :20], k[:1, :, :20], v[:1, :, :20], torch.zeros(1, 20, dtype=torch.bool))
    return torch.allclose(attention(q, k, v, mask)[:1, :, :20], alone, atol=1e-10)


def averages_values(attention):
    """One key alone gives its value."""
    q, k, v = inputs(1, 1)
    return torch.allclose(attention(q, k, v, torch.zeros(3, 1, dtype=torch.bool)), v, rtol=1e-4)


@pytest.mark.parametrize("check", [is_the_recurrence, ignores_batch_mates, averages_values])
def test_the_op_passes_each_check(check):
    assert check(correct)


@pytest.mark.parametrize(
    "fault, check",
    [
        (padded_number_of_keys, is_the_recurrence),
        (padded_number_of_keys, ignores_batch_mates),
        (unmasked_keys, is_the_recurrence),
        (unmasked_keys, ignores_batch_mates),
        (no_normaliser, is_the_recurrence),
        (no_normaliser, averages_values),
    ],
)
def test_a_check_catches_the_fault(fault, check):
    assert not check(fault)


def causal_correct(q, k, v):
    return recurrent_momentum_attention(q, k, v, momentum=MOMENTUM, step_size=1.0)


def causal_by_distance_to_the_query(q, k, v):
    positions = torch.arange(k.shape[2])
    distance = (positions.unsqueeze(1) - positions).clamp(min=0)
    return attend(q, k, v, weights_of_distance(distance), causal=True)


def causal_by_distance_to_the_end(q, k, v):
    return attend(q, k, v, to_the_padded_end(k), causal=True)


def prefix_stays(attention):
    q, k, v = inputs(10, 10)
    prefix = attention(q[:, :, :6], k[:, :, :6], v[:, :, :6])
    return torch.allclose(attention(q, k, v)[:, :, :6], prefix, atol=1e-10)


@pytest.mark.parametrize("attention", [causal_correct, causal_by_distance_to_the_query])
def test_a_prefix_does_not_change_when_the_sentence_grows(attention):
    assert prefix_stays(attention)
    assert torch.allclose(attention(*inputs(10, 10)), causal_correct(*inputs(10, 10)), atol=1e-10)


def test_weights_anchored_at_the_end_are_caught():
    assert not prefix_stays(causal_by_distance_to_the_end)
