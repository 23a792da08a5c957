"""Attention of short sentences while decoding is the recurrence's, whatever is padding."""

from functools import partial

import pytest
import torch

from momentum_fairseq.ops import linear_attention, momentum_attention, recurrent_momentum_attention
from momentum_fairseq.ops.momentum_weights import momentum_weights
from momentum_fairseq.ops.short_attention import short_attention
from tests.ops.cases import inputs, padding_mask


@pytest.mark.parametrize("padding", ["none", "left", "right", "a whole row"])
@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.999])
@pytest.mark.parametrize("length", [1, 7, 65])
def test_it_is_the_recurrence(length, momentum, padding):
    torch.manual_seed(1)
    q, k = torch.rand(2, 3, 2, length, 5, dtype=torch.float64) + 0.1
    v = torch.randn(3, 2, length, 4, dtype=torch.float64)
    mask = None if padding == "none" else torch.zeros(3, length, dtype=torch.bool)
    if padding == "a whole row":
        mask[1] = True
    elif mask is not None:
        mask[0, : length // 2] = padding == "left"
        mask[1, (length + 1) // 2 :] = padding == "right"
    numbers = {"momentum": momentum, "step_size": 0.7, "key_padding_mask": mask}
    expected = recurrent_momentum_attention(q, k, v, causal=False, eps=0.1, **numbers)
    weights = momentum_weights(length, **numbers, dtype=torch.float64, device=v.device)
    with torch.no_grad():
        found = short_attention(q, k, v, weights, key_padding_mask=mask, eps=0.1)
        plain = short_attention(q, k, v, None, key_padding_mask=mask, eps=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    if momentum == 0:
        torch.testing.assert_close(0.7 * plain, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("op", [linear_attention, partial(momentum_attention, momentum=0.6, step_size=0.7)])
def test_without_gradients_padding_may_hold_anything_and_inputs_stay(op, side):
    leaves, mask = inputs(3, 3), padding_mask(3, 3, side)
    expected = op(*leaves, key_padding_mask=mask)
    q, k, v = (x.detach().clone() for x in leaves)
    for x in (k, v):
        x.transpose(1, 2)[mask] = torch.nan
    before = [x.clone() for x in (q, k, v)]
    torch.testing.assert_close(op(q, k, v, key_padding_mask=mask), expected, rtol=1e-10, atol=1e-10)
    for x, old in zip((q, k, v), before, strict=True):
        torch.testing.assert_close(x, old, rtol=0, atol=0, equal_nan=True)
