"""Symmetric momentum attention is momentum attention averaged over both directions."""

import pytest
import torch

from momentum_fairseq.ops import linear_attention, recurrent_momentum_attention, symmetric_momentum_attention
from momentum_fairseq.ops.kernel_choice import VARIABLE
from tests.ops.cases import LENGTHS, MOMENTA, SIDES, assert_same, inputs, padding_mask, value_and_gradients


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("momentum", MOMENTA)
def test_it_is_the_mean_of_the_recurrence_over_the_sentence_and_over_its_reverse(momentum, length, side):
    q, k, v = inputs(5, length)
    mask = None if side is None else padding_mask(3, length, side)
    numbers = {"momentum": momentum, "step_size": 0.7}

    def mean() -> torch.Tensor:
        reversed_mask = None if mask is None else mask.flip(1)
        forwards = recurrent_momentum_attention(q, k, v, key_padding_mask=mask, causal=False, **numbers)
        backwards = recurrent_momentum_attention(q, k.flip(2), v.flip(2), key_padding_mask=reversed_mask, causal=False, **numbers)
        return (forwards + backwards) / 2

    ours = value_and_gradients(lambda: symmetric_momentum_attention(q, k, v, key_padding_mask=mask, **numbers), q, k, v)
    assert_same(ours, value_and_gradients(mean, q, k, v))


def test_reversing_the_sentence_changes_nothing():
    q, k, v = inputs(5, 9)
    mask = padding_mask(3, 9, "left")
    numbers = {"momentum": 0.6, "step_size": 0.6}
    out = symmetric_momentum_attention(q, k, v, key_padding_mask=mask, **numbers)
    assert_same([symmetric_momentum_attention(q, k.flip(2), v.flip(2), key_padding_mask=mask.flip(1), **numbers)], [out])


def test_without_momentum_it_is_linear_attention_times_the_step_size():
    q, k, v = inputs(5, 9)
    assert_same([symmetric_momentum_attention(q, k, v, momentum=0.0, step_size=0.7)], [0.7 * linear_attention(q, k, v)])


def test_one_momentum_and_step_size_a_head_are_each_head_on_its_own():
    q, k, v = inputs(5, 9)
    mask, momentum, step_size = padding_mask(3, 9, "both"), torch.tensor([0.2, 0.9]).double(), torch.tensor([0.5, 2.0]).double()
    out = symmetric_momentum_attention(q, k, v, momentum=momentum, step_size=step_size, key_padding_mask=mask)
    heads = [
        symmetric_momentum_attention(
            q[:, [h]], k[:, [h]], v[:, [h]], momentum=float(momentum[h]), step_size=float(step_size[h]), key_padding_mask=mask
        )
        for h in range(2)
    ]
    assert_same([out], [torch.cat(heads, 1)])


def test_torch_computes_it_where_the_reference_is_asked_for_which_knows_one_direction(monkeypatch):
    leaves, numbers = inputs(5, 9), {"momentum": 0.9, "step_size": 0.6}
    expected = symmetric_momentum_attention(*leaves, **numbers)
    monkeypatch.setenv(VARIABLE, "reference")
    assert_same([symmetric_momentum_attention(*leaves, **numbers)], [expected])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_only_inputs_and_output_are_rounded(dtype):
    tensors, numbers = [x.detach() for x in inputs(5, 9, dtype=dtype)], dict(momentum=0.9, step_size=0.7)
    out = symmetric_momentum_attention(*tensors, **numbers)
    assert torch.equal(out, symmetric_momentum_attention(*(x.float() for x in tensors), **numbers).to(dtype))


def test_numbers_out_of_range_are_refused():
    q, k, v = inputs(5, 9)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        symmetric_momentum_attention(q, k, v, momentum=1.0, step_size=1.0)
    with pytest.raises(ValueError, match="step_size must be positive and finite, got 0"):
        symmetric_momentum_attention(q, k, v, momentum=0.5, step_size=0)
