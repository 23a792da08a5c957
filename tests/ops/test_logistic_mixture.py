"""Mixtures of discretised logistics: a distribution over 0 … 255, exact at the edges and far out, and a sampler that fits it."""

import math

import pytest
import torch
from torch import Tensor

from momentum_fairseq.ops.logistic_mixture import (
    MOST_LOG_SCALE,
    logistic_mixture_log_prob,
    sample_logistic_mixture,
    spread_mixture,
)

EVERY_VALUE = torch.arange(256)


def mixture(logits: list[float], means: list[float], log_scales: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    """`[3K]`."""
    return torch.tensor([*logits, *means, *log_scales], dtype=dtype)


def log_probs(parameters: Tensor) -> Tensor:
    """Of every value: `[..., 3K]` → `[..., 256]`."""
    batch = parameters.shape[:-1]
    return logistic_mixture_log_prob(parameters.unsqueeze(-2).expand(*batch, 256, -1), EVERY_VALUE.expand(*batch, 256))


def some_mixtures(dtype: torch.dtype) -> Tensor:
    """Ten components each, `[40,30]`: narrow and wide, inside and beyond the values."""
    generator = torch.Generator().manual_seed(3)
    logits, means, log_scales = torch.randn(3, 40, 10, generator=generator, dtype=torch.float64)
    return torch.cat([2 * logits, 1.5 * means, 3 * log_scales - 3], dim=-1).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_the_probabilities_of_the_256_values_sum_to_one(dtype, tolerance):
    total = log_probs(some_mixtures(dtype)).double().exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(40, dtype=torch.float64), rtol=0, atol=tolerance)


def test_a_probability_is_the_logistics_mass_in_the_values_bin_and_the_outer_ones_are_open():
    logits, means, scales = [0.3, -1.0], [-0.9, 0.4], [0.2, 0.05]
    weights = torch.tensor(logits, dtype=torch.float64).softmax(0)
    expected = torch.zeros(256, dtype=torch.float64)
    for weight, mean, scale in zip(weights, means, scales, strict=True):
        inner = (torch.arange(255, dtype=torch.float64) + 0.5) / 127.5 - 1  # between v and v + 1
        below = torch.cat([torch.zeros(1), torch.sigmoid((inner - mean) / scale), torch.ones(1)]).double()
        expected += weight * below.diff()
    found = log_probs(mixture(logits, means, [math.log(s) for s in scales])).exp()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_a_scale_far_below_a_bin_puts_all_mass_on_the_nearest_value():
    found = log_probs(mixture([0.0], [77 / 127.5 - 1], [-30.0])).exp()
    assert found[77] > 0.97 and found.argmax() == 77  # scales end at e^−7, a quarter of half a bin


def test_no_value_is_impossible_in_float32_however_far_out():
    parameters = mixture([0.0], [-1.0], [-9.0], torch.float32).requires_grad_()
    found = log_probs(parameters)
    exact = log_probs(mixture([0.0], [-1.0], [-9.0]))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    assert found.min() < -2000  # e^−2000 is no float
    found.sum().backward()
    assert parameters.grad.isfinite().all()


def test_no_value_is_impossible_in_float32_however_wide_the_scale():
    found = log_probs(mixture([0.0], [0.0], [1000.0], torch.float32))
    assert found.isfinite().all() and found.exp().sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_gradients_are_those_of_the_log_probability_at_edges_too(value):
    parameters = some_mixtures(torch.float64)[:3].requires_grad_()
    values = torch.full((3,), value)
    assert torch.autograd.gradcheck(lambda p: logistic_mixture_log_prob(p, values), (parameters,))


def test_half_precision_is_computed_in_float32():
    parameters = some_mixtures(torch.float32).bfloat16()
    assert torch.equal(log_probs(parameters), log_probs(parameters.float()))


@pytest.mark.parametrize("log_scales", [[-2.0, -4.0, -1.0], [-7.0, -7.0, 0.5], [MOST_LOG_SCALE] * 3])
def test_the_sampler_draws_each_value_as_often_as_the_loss_says(log_scales):
    """Pearson's χ² over the values that are expected at least five times; 60,000 draws."""
    parameters, draws = mixture([0.0, 1.0, -0.5], [-1.02, 0.1, 0.97], log_scales, torch.float32), 60_000
    found = sample_logistic_mixture(parameters.expand(draws, -1), torch.Generator().manual_seed(8))
    expected = draws * log_probs(parameters).double().exp()
    counts, usual = found.bincount(minlength=256), expected >= 5
    statistic = ((counts - expected).square() / expected)[usual].sum().item()
    degrees = int(usual.sum()) - 1
    assert statistic < degrees + 4 * math.sqrt(2 * max(degrees, 1)) + 4
    assert counts[~usual].sum() <= 5 + 3 * expected[~usual].sum()


def test_draws_have_the_parameters_shape_and_follow_from_the_seed():
    parameters = some_mixtures(torch.float32).reshape(4, 10, 30)
    first, again, other = (sample_logistic_mixture(parameters, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (4, 10) and first.dtype == torch.int64 and first.min() >= 0 and first.max() <= 255
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_training_starts_with_all_values_about_equally_probable():
    found = log_probs(spread_mixture(10)).exp()
    assert found.min() > 0.5 / 256 and found[1:-1].max() < 1.5 / 256
    assert found.max() < 9 / 256  # the outer values have what lies beyond them too


def test_what_is_no_mixture_is_refused():
    with pytest.raises(ValueError, match="31 parameters a pixel are no triples .give the model --mixture-components"):
        logistic_mixture_log_prob(torch.zeros(2, 31), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="no triples"):
        sample_logistic_mixture(torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"values must be \[2\] to go with the parameters, got \[2, 1\]"):
        logistic_mixture_log_prob(torch.zeros(2, 30), torch.zeros(2, 1, dtype=torch.long))
