"""Performer's features: their directions, the kernel they estimate, the softmax attention that they near."""

import pytest
import torch

from momentum_fairseq.ops import linear_attention, softmax_attention
from momentum_fairseq.ops.performer_attention import (
    orthogonal_directions,
    positive_key_features,
    positive_query_features,
)
from tests.ops.cases import assert_same, padding_mask


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(features: int, dim: int = 8, heads: int = 2, seed: int = 0) -> torch.Tensor:
    return orthogonal_directions(heads, features, dim, torch.Generator().manual_seed(seed)).double()


def performer(q, k, v, omega, mask=None):
    features = positive_query_features(q, omega), positive_key_features(k, omega)
    return linear_attention(*features, v, key_padding_mask=mask, eps=0.0)


def test_directions_are_orthogonal_in_blocks_and_as_long_as_normal_ones():
    omega = directions(20)
    for block in (omega[:, :8], omega[:, 8:16], omega[:, 16:]):
        products = block @ block.transpose(-1, -2)
        off_diagonal = products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
        torch.testing.assert_close(off_diagonal, torch.zeros_like(off_diagonal), rtol=0, atol=1e-5)
    many = directions(2000, heads=1)
    assert many.square().sum(-1).mean().item() == pytest.approx(8, rel=0.05)
    torch.testing.assert_close(many.mean(1), torch.zeros(1, 8, dtype=torch.float64), rtol=0, atol=0.1)
    torch.testing.assert_close(many[0].T @ many[0] / 2000, torch.eye(8, dtype=torch.float64), rtol=0, atol=0.1)


def test_the_features_are_the_formula_over_what_a_division_cancels():
    q, k, v, omega = normal(2, 2, 5, 8), normal(2, 2, 7, 8, seed=1), normal(2, 2, 7, 3, seed=2), directions(16)

    def phi(x):
        x = x / 8**0.25
        return torch.stack([(x @ w - x.square().sum(-1) / 2).exp() for w in omega[0]], dim=-1)

    q, k, v = q[:, :1], k[:, :1], v[:, :1]
    weights = phi(q) @ phi(k).transpose(-1, -2)
    expected = weights / weights.sum(-1, keepdim=True) @ v
    assert_same([performer(q, k, v, omega[:1])], [expected])


def test_the_mean_over_draws_is_the_softmax_kernel():
    q, k = 0.5 * normal(1, 1, 4, 8), 0.5 * normal(1, 1, 4, 8, seed=1)
    omega = directions(40_000, heads=1)
    estimate = positive_key_features(q, omega) @ positive_key_features(k, omega).transpose(-1, -2) / omega.shape[1]
    torch.testing.assert_close(estimate, (q @ k.transpose(-1, -2) / 8**0.5).exp(), rtol=0.04, atol=0)


def test_the_error_to_softmax_attention_falls_with_the_features():
    q, k, v = 0.5 * normal(2, 2, 40, 8), 0.5 * normal(2, 2, 40, 8, seed=1), normal(2, 2, 40, 8, seed=2)
    mask = padding_mask(2, 40, "both")
    expected = softmax_attention(q, k, v, key_padding_mask=mask)
    errors = [
        sum((performer(q, k, v, directions(features, seed=seed), mask) - expected).square().mean() for seed in range(8))
        for features in (8, 32, 128, 512)
    ]
    assert all(larger > 1.8 * smaller for larger, smaller in zip(errors, errors[1:], strict=False)), errors


def test_long_queries_and_keys_neither_overflow_nor_lose_the_attention_in_float32():
    q, k, v = 6 * normal(1, 2, 9, 32).float(), 6 * normal(1, 2, 9, 32, seed=1).float(), normal(1, 2, 9, 4, seed=2).float()
    out = performer(q, k, v, directions(64, 32).float())
    low, high = v.amin(2, keepdim=True), v.amax(2, keepdim=True)
    assert ((out >= low - 1e-5) & (out <= high + 1e-5)).all()  # a mean of the values, not zeros that eps leaves over
    exact = performer(q.double(), k.double(), v.double(), directions(64, 32))
    torch.testing.assert_close(out.double(), exact, rtol=1e-3, atol=1e-4)
