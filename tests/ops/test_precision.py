"""Half precision: the op's own rounding stays within that of its output's type."""

from functools import partial

import pytest
import torch

from momentum_fairseq.ops import FEATURE_MAPS, linear_attention, momentum_attention, recurrent_momentum_attention
from tests.ops.cases import inputs, padding_mask, value_and_gradients

HALVES = (torch.bfloat16, torch.float16)


def relative_error(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("momentum", [0.1, 0.9, 0.999])
@pytest.mark.parametrize("length", [16, 200])
def test_the_error_is_at_most_twice_that_of_rounding_a_float32_result(length, momentum, dtype):
    q, k, v = (x.detach() for x in inputs(length, length, dtype=dtype, dim=8, value_dim=8))
    numbers = dict(momentum=momentum, step_size=1.0, key_padding_mask=padding_mask(3, length, "left"))
    exact = recurrent_momentum_attention(q.double(), k.double(), v.double(), causal=False, **numbers)
    plain = momentum_attention(q.float(), k.float(), v.float(), **numbers).to(dtype)
    out = momentum_attention(q, k, v, **numbers)
    assert out.dtype == dtype
    assert relative_error(out, exact) <= 2 * relative_error(plain, exact)


@pytest.mark.parametrize("momentum", [0.1, 0.999, 0.99999])
def test_float32_keeps_its_digits_for_every_momentum(momentum):
    q, k, v = (x.detach() for x in inputs(300, 300, dtype=torch.float32, dim=32, value_dim=32))
    numbers = dict(momentum=momentum, step_size=1.0, key_padding_mask=padding_mask(3, 300, "left"))
    exact = recurrent_momentum_attention(q.double(), k.double(), v.double(), causal=False, **numbers)
    assert relative_error(momentum_attention(q, k, v, **numbers), exact) < 1e-6


@pytest.mark.parametrize(("dim", "value_dim"), [(4, 3), (8, 32), (2, 64)])
@pytest.mark.parametrize("masked", [False, True])
def test_float32_keeps_its_digits_over_thousands_of_narrow_keys(dim, value_dim, masked):
    length = 10_001
    mask = padding_mask(2, length, "left") if masked else None
    leaves = inputs(length, length, batch=2, heads=1, dtype=torch.float32, dim=dim, value_dim=value_dim)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    attention = partial(momentum_attention, momentum=0.9, step_size=1.0, key_padding_mask=mask)
    ours, theirs = (value_and_gradients(lambda x=x: attention(*x), *x) for x in (leaves, exact))
    for output_or_gradient_of_v in (0, 3):
        assert relative_error(ours[output_or_gradient_of_v], theirs[output_or_gradient_of_v]) <= 5e-7


@pytest.mark.parametrize("queries", [1, 64])
def test_sums_over_4096_large_keys_do_not_overflow_in_float16(queries):
    """The key sum is 409600 here, the largest float16 is 65504."""
    q, k = torch.full((1, 1, queries, 32), 100.0).half(), torch.full((1, 1, 4096, 32), 100.0).half()
    v = torch.full((1, 1, 4096, 8), 10.0).half()
    out = momentum_attention(q, k, v, momentum=0.9, step_size=1.0)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), torch.full_like(out, 99.78).float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("length", [4, 64])
def test_sums_stay_in_float32_under_autocast(length):
    q, k, v = (x.detach().requires_grad_() for x in inputs(length, length, dtype=torch.float32, dim=32, value_dim=32))
    mask = padding_mask(3, length, "left")

    def run(attention, enabled):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = attention(q, k, v, key_padding_mask=mask)
        return out.detach(), *torch.autograd.grad(out.square().sum(), (q, k, v))

    for attention in (linear_attention, lambda *x, **y: momentum_attention(*x, **y, momentum=0.9, step_size=1.0)):
        for ours, expected in zip(run(attention, True), run(attention, False), strict=True):
            assert ours.dtype == torch.float32
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("length", [4, 64])
def test_so_do_those_of_a_backward_that_is_called_under_autocast(length):
    leaves = inputs(length, length, dtype=torch.float32, dim=32, value_dim=32)

    def run(enabled):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = momentum_attention(*leaves, momentum=0.9, step_size=1.0)
            return torch.autograd.grad(out.square().sum(), leaves)

    for ours, expected in zip(run(True), run(False), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_projections_in_half_precision_may_feed_float32_features(dtype):
    """As under autocast: q and k come out of φ in float32, v out of its projection in half precision."""
    q, k, v = (x.detach() for x in inputs(8, 8))
    phi = FEATURE_MAPS["elu"]
    out = momentum_attention(phi(q.to(dtype)), phi(k.to(dtype)), v.to(dtype), momentum=0.9, step_size=1.0)
    assert out.dtype == dtype
    assert out.isfinite().all()
