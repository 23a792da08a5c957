import pytest
import torch

from momentum_fairseq.ops import softmax_attention
from tests.ops.cases import LENGTHS, SIDES, assert_same, inputs, padding_mask, value_and_gradients


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_formula(length, side):
    q, k, v = inputs(4, length)
    mask = padding_mask(3, length, side)

    def formula():
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(mask[:, None, None], -torch.inf)
        return scores.softmax(-1) @ v

    ours = value_and_gradients(lambda: softmax_attention(q, k, v, key_padding_mask=mask), q, k, v)
    assert_same(ours, value_and_gradients(formula, q, k, v))


def test_no_mask_is_no_padding():
    q, k, v = inputs(4, 6)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    assert_same([softmax_attention(q, k, v)], [softmax_attention(q, k, v, key_padding_mask=mask)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_row_of_padding_only_gives_zeros_and_finite_gradients(dtype):
    q, k, v = inputs(4, 6, dtype=dtype)
    mask = padding_mask(3, 6, "left")
    mask[1] = True
    out, *gradients = value_and_gradients(lambda: softmax_attention(q, k, v, key_padding_mask=mask), q, k, v)
    assert out[1].eq(0).all()
    assert all(x.isfinite().all() for x in (out, *gradients))
