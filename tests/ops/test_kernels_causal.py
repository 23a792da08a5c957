"""The causal Triton kernels against the float64 oracle: natively where there is a GPU, else in Triton's interpreter."""

from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from momentum_fairseq.ops import (
    causal_linear_attention,
    causal_momentum_attention,
    elu_plus_one,
    recurrent_momentum_attention,
)
from momentum_fairseq.ops.feature_maps import squared_relu
from momentum_fairseq.ops.kernel_choice import VARIABLE
from tests.ops.causal_kernel_cases import (
    LINEAR,
    assert_exact,
    assert_is_the_recurrence,
    inputs,
    mask_of,
    split_into,
)
from tests.ops.kernel_cases import DEVICE, LIMITS, draw, with_gradients

pytest_plugins = ["tests.ops.kernel_fixtures"]
pytestmark = pytest.mark.usefixtures("by_triton")


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("momentum", "length", "dim", "value_dim", "side"),
    [
        (0.0, 17, 8, 33, "right"),
        (0.1, 63, 8, 8, None),
        (0.3, 33, 33, 8, "inside"),
        (0.6, 17, 8, 8, None),
        (0.9, 65, 8, 20, "left"),
        (0.99, 17, 33, 33, "both"),
        (0.999, 65, 8, 8, None),
    ],
)
def test_it_is_the_recurrence_for_every_momentum(momentum, length, dim, value_dim, side):
    assert_is_the_recurrence(inputs(length, dim, value_dim), mask_of(length, side), momentum=momentum, step_size=0.7)


def test_one_key_alone_gives_step_size_times_its_value():
    q, k, v = inputs(1)
    out, dq, dk, dv = with_gradients(lambda *x: causal_momentum_attention(*x, momentum=0.6, step_size=0.5), [q, k, v])
    torch.testing.assert_close(out, 0.5 * v.detach())
    torch.testing.assert_close(dv, 0.5 * draw(*out.shape, seed=9))
    assert max(x.abs().max() for x in (dq, dk)) < 1e-6


def test_it_is_the_recurrence_with_tiles_as_they_come():
    assert_is_the_recurrence(inputs(65, 33, 8, batch=1), None, momentum=0.9, step_size=0.7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "dim", "value_dim"),
    [*((dtype, 139, 139) for dtype in LIMITS), (torch.float32, 256, 24), (torch.bfloat16, 24, 256)],
)
def test_it_is_the_recurrence_up_to_256_dimensions(dim, value_dim, dtype):
    assert_is_the_recurrence(inputs(70, dim, value_dim, dtype=dtype, batch=1), None, momentum=0.9, step_size=0.7)


@pytest.mark.slow
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("momentum", "side"), [(0.1, "left"), (0.6, "right"), (0.999, "inside")])
def test_it_is_the_recurrence_for_every_mask_in_segments(momentum, side, monkeypatch):
    split_into(monkeypatch, 2)
    assert_is_the_recurrence(inputs(70), mask_of(70, side), momentum=momentum, step_size=0.7)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("dtype", "momentum"), [(torch.bfloat16, 0.999), (torch.float16, 0.9)])
def test_half_precision_loses_what_rounding_loses(dtype, momentum):
    assert_is_the_recurrence(inputs(40, 16, 16, dtype=dtype), mask_of(40, "left"), momentum=momentum, step_size=0.7)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("length", "side", "segments"), [(33, "inside", 1), (33, None, 2)])
def test_without_momentum_it_is_linear_attention(length, side, segments, monkeypatch):
    split_into(monkeypatch, segments)
    mask = mask_of(length, side)
    assert_exact(
        lambda *x: causal_linear_attention(*x, key_padding_mask=mask),
        lambda *x: recurrent_momentum_attention(*x, key_padding_mask=mask, **LINEAR),
        inputs(length),
    )


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("kind", "side"), [("momentum", "inside"), ("linear", None)])
def test_the_feature_map_on_the_way_is_the_feature_map_before(kind, side):
    mask = mask_of(33, side)
    numbers = {"linear": LINEAR, "momentum": {"momentum": 0.9, "step_size": 0.7}}[kind]
    attention = causal_linear_attention if kind == "linear" else partial(causal_momentum_attention, **numbers)
    assert_exact(
        lambda *x: attention(*x, key_padding_mask=mask, feature_map=elu_plus_one),
        lambda q, k, v: recurrent_momentum_attention(elu_plus_one(q), elu_plus_one(k), v, key_padding_mask=mask, **numbers),
        inputs(33, mapped=False),
    )


@pytest.mark.parametrize("kernel", ["reference", "torch", "triton"])
def test_any_feature_map_is_taken_first(kernel, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    q, k, v = (x.detach() for x in inputs(9, mapped=False))
    for attention in (partial(causal_momentum_attention, momentum=0.6, step_size=0.7), causal_linear_attention):
        expected = attention(squared_relu(q), squared_relu(k), v)
        assert torch.equal(attention(q, k, v, feature_map=squared_relu), expected)


def test_sums_over_large_keys_do_not_overflow_in_float16():
    """The state passes 5,000,000 here, a score 320,000; the largest float16 is 65504."""
    k, v = torch.full((1, 1, 512, 32), 100.0, device=DEVICE).half(), torch.full((1, 1, 512, 8), 10.0, device=DEVICE).half()
    out, state = causal_momentum_attention(k, k, v, momentum=0.9, step_size=1.0, return_state=True)
    expected = 100 - 90 * (1 - 0.9**512) / 0.1 / 512
    torch.testing.assert_close(out[0, 0, -1].float(), torch.full((8,), expected, device=DEVICE), rtol=1e-3, atol=0)
    assert all(x.isfinite().all() for x in (out, *state))


def test_values_of_another_dtype_are_summed_in_float32():
    q, k, v = (x.detach() for x in inputs(17))
    out = causal_momentum_attention(q, k, v.bfloat16(), momentum=0.6, step_size=1.0)
    exact = recurrent_momentum_attention(q, k, v.bfloat16().float(), momentum=0.6, step_size=1.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), rtol=2**-7, atol=1e-6)
