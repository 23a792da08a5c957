"""Causal products without a normaliser; the attentions that divide them are held to their formulas in tests of their own."""

import pytest
import torch

from momentum_fairseq.ops.causal_product import causal_product
from tests.ops.cases import assert_same, inputs


@pytest.mark.parametrize("length", [4, 150])
def test_a_state_is_the_sum_of_the_products_and_keeps_no_memory_but_its_own(length):
    q, k, v = (x.detach() for x in inputs(length, length, batch=1, heads=1))
    out, state = causal_product(q, k, v, None)
    assert_same([out, state.s], [(q @ k.transpose(-1, -2)).tril() @ v, k.transpose(-1, -2) @ v])
    assert state.s.untyped_storage().nbytes() == state.s.nbytes


def test_a_state_of_another_precision_is_summed_in_that_of_the_values():
    q, k, v = (x.detach() for x in inputs(9, 9))
    whole, _ = causal_product(q, k, v, None)
    _, state = causal_product(q[:, :, :5].float(), k[:, :, :5].float(), v[:, :, :5].float(), None)
    rest, after = causal_product(q[:, :, 5:], k[:, :, 5:], v[:, :, 5:], state)
    assert after.s.dtype == torch.float64
    torch.testing.assert_close(rest, whole[:, :, 5:], rtol=1e-5, atol=1e-5)
