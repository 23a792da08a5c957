"""The attentions of TransNormer against their formulas."""

import pytest
import torch

from momentum_fairseq.ops import FEATURE_MAPS, softmax_attention
from momentum_fairseq.ops.transnormer_attention import (
    causal_norm_attention,
    diag_attention,
    diag_attention_step,
    norm_attention,
)
from tests.ops.cases import LENGTHS, SIDES, assert_same, inputs, padding_mask, value_and_gradients

GAIN = torch.tensor([[1.0, 2.0, 0.5], [0.3, 1.0, 3.0]], dtype=torch.float64)


def naive_norm(q, k, v, mask, causal: bool):
    weights = q @ k.transpose(-1, -2)
    if causal:
        weights = weights.tril()
    if mask is not None:
        weights = weights.masked_fill(mask[:, None, None, :], 0)
    sums = weights @ v
    return sums / (sums.square().mean(-1, keepdim=True) + 1e-6).sqrt() * GAIN[:, None]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("length", [*LENGTHS, 200])
def test_norm_attention_is_its_formula(length, side, causal):
    q, k, v = inputs(length, length)
    mask = None if side is None else padding_mask(3, length, side)

    def ours():
        if causal:
            return causal_norm_attention(q, k, v, GAIN, key_padding_mask=mask)[0]
        return norm_attention(q, k, v, GAIN, key_padding_mask=mask)

    theirs = value_and_gradients(lambda: naive_norm(q, k, v, mask, causal), q, k, v)
    assert_same(value_and_gradients(ours, q, k, v), theirs, tolerance=1e-9)


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("length", [1, 5, 200])
def test_norm_attention_through_products_is_that_of_the_features(length, side, monkeypatch):
    q, k, v = inputs(length, length)
    mask, taylor, taken = None if side is None else padding_mask(3, length, side), FEATURE_MAPS["taylor"], []
    theirs = value_and_gradients(lambda: norm_attention(taylor(q), taylor(k), v, GAIN, key_padding_mask=mask), q, k, v)
    features = type(taylor).__call__
    monkeypatch.setattr(type(taylor), "__call__", lambda self, x: taken.append(x) or features(self, x))

    def ours():
        return norm_attention(q, k, v, GAIN, key_padding_mask=mask, feature_map=taylor)

    assert_same(value_and_gradients(ours, q, k, v), theirs, tolerance=1e-9)
    assert bool(taken) == (length == 200)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("length", LENGTHS)
def test_diag_attention_is_softmax_attention_in_blocks_from_the_first_real_position(length, side, causal):
    q, k, v = inputs(length, length)
    mask = None if side is None else padding_mask(3, length, side)

    def naive():
        out = torch.zeros_like(v)
        for b in range(3):
            real = [i for i in range(length) if mask is None or not mask[b, i]]
            for place, i in enumerate(real):
                keys = real[place - place % 8 : place + 1 if causal else place - place % 8 + 8]
                row = softmax_attention(q[b : b + 1, :, [i]], k[b : b + 1, :, keys], v[b : b + 1, :, keys])
                out[b, :, i] = row[0, :, 0]
        return out

    ours = value_and_gradients(lambda: diag_attention(q, k, v, 8, causal=causal, key_padding_mask=mask), q, k, v)
    assert_same(ours, value_and_gradients(naive, q, k, v))


@pytest.mark.parametrize("sizes", [[1] * 20, [20], [7, 1, 12]])
@pytest.mark.parametrize("side", [None, *SIDES])
def test_diag_attention_by_steps_is_the_causal_one(side, sizes):
    q, k, v = (x.detach() for x in inputs(20, 20))
    mask = None if side is None else padding_mask(3, 20, side)
    cache, outputs, at = None, [], 0
    for size in sizes:
        piece = slice(at, at + size)
        padding = None if mask is None or not mask[:, piece].any() else mask[:, piece]
        out, cache = diag_attention_step(q[:, :, piece], k[:, :, piece], v[:, :, piece], 8, cache, key_padding_mask=padding)
        outputs.append(out)
        at += size
    assert_same([torch.cat(outputs, dim=2)], [diag_attention(q, k, v, 8, causal=True, key_padding_mask=mask)])


def test_the_error_of_diag_attention_to_softmax_attention_falls_with_the_block():
    q, k, v = inputs(64, 64)
    expected = softmax_attention(q, k, v)
    errors = [(diag_attention(q, k, v, block) - expected).square().mean().item() for block in (4, 16, 32, 64)]
    assert all(larger > 1.5 * smaller for larger, smaller in zip(errors, errors[1:], strict=False)), errors
    assert errors[-1] < 1e-25


def test_diag_attention_to_another_sequence_is_refused():
    with pytest.raises(ValueError, match="same positions, got N = 4, S = 5"):
        diag_attention(*inputs(4, 5), 8)
