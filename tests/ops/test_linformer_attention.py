"""Linformer attention against its formula, and against softmax attention where it is one."""

import pytest
import torch

from momentum_fairseq.ops import softmax_attention
from momentum_fairseq.ops.linformer_attention import linformer_attention
from tests.ops.cases import LENGTHS, SIDES, assert_same, inputs, padding_mask, value_and_gradients


def projection(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).requires_grad_()


def naive(q, k, v, key_projection, value_projection, mask):
    """The formula, for each sentence without its padding."""
    outputs = []
    for b in range(q.shape[0]):
        real = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else ~mask[b]
        count = int(real.sum())
        keys, values = key_projection[:, :count] @ k[b][:, real], value_projection[:, :count] @ v[b][:, real]
        outputs.append((q[b] @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ values)
    return torch.stack(outputs)


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("keys", LENGTHS)
def test_it_is_its_formula_with_positions_from_the_first_real_key(keys, side):
    q, k, v = inputs(4, keys)
    mask = None if side is None else padding_mask(3, keys, side)
    leaves = (q, k, v, projection(6, 70, 1), projection(6, 70, 2))
    ours = value_and_gradients(lambda: linformer_attention(*leaves, key_padding_mask=mask), *leaves)
    assert_same(ours, value_and_gradients(lambda: naive(*leaves, mask), *leaves))


def test_with_the_identity_for_projection_it_is_softmax_attention():
    q, k, v = inputs(4, 9)
    identity = torch.eye(9, dtype=torch.float64)
    assert_same([linformer_attention(q, k, v, identity, identity)], [softmax_attention(q, k, v)])


def test_the_error_to_softmax_attention_falls_with_the_length_that_means_of_a_smooth_sequence_are_projected_to():
    positions = torch.linspace(0, 3, 64, dtype=torch.float64)
    k = torch.stack([torch.sin((i + 1) * positions) for i in range(5)], dim=-1).expand(1, 2, -1, -1)
    v = torch.stack([torch.cos((i + 1) * positions) for i in range(3)], dim=-1).expand(1, 2, -1, -1)
    q, _, _ = inputs(7, 64, batch=1)
    errors = []
    for rows in (8, 16, 32, 64):
        means = torch.eye(rows, dtype=torch.float64).repeat_interleave(64 // rows, dim=1) * rows / 64
        errors.append((linformer_attention(q, k, v, means, means) - softmax_attention(q, k, v)).square().mean().item())
    assert all(larger > 3 * smaller for larger, smaller in zip(errors, errors[1:], strict=False)), errors
    assert errors[-1] < 1e-20


def test_more_keys_than_it_was_built_for_are_refused():
    q, k, v = inputs(4, 9)
    with pytest.raises(ValueError, match="built for at most 8 keys and got 9; raise the maximal length"):
        linformer_attention(q, k, v, projection(6, 8, 1), projection(6, 8, 2))


def test_autocast_changes_nothing():
    q, k, v = (x.detach().float() for x in inputs(4, 9))
    projections = projection(6, 9, 1).detach().float(), projection(6, 9, 2).detach().float()
    expected = linformer_attention(q, k, v, *projections)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linformer_attention(q, k, v, *projections), expected)
