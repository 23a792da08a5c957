"""Every form of attention adds the eps that it is given, and not the default, to the normaliser; 0 makes no row NaN."""

import math
from functools import partial

import pytest
import torch

from momentum_fairseq.ops import (
    FEATURE_MAPS,
    MomentumState,
    causal_linear_attention,
    causal_momentum_attention,
    chunk_momentum_attn,
    linear_attention,
    linear_attention_step,
    linear_pattern,
    momentum_attention,
    momentum_attention_step,
    product_pattern,
    read_source,
    read_values,
    recurrent_momentum_attention,
    symmetric_momentum_attention,
    weighted_source,
)
from momentum_fairseq.ops.kernel_choice import HAS_TRITON, VARIABLE
from momentum_fairseq.ops.padding_free import padding_free_attention
from momentum_fairseq.ops.scaled_momentum_step import ScaledMomentumState, scaled_momentum_step_
from momentum_fairseq.ops.short_attention import short_attention
from tests.ops.cases import assert_same
from tests.ops.cases import inputs as exact_inputs
from tests.ops.kernel_cases import DEVICE, LIMITS, assert_exact, doubled, inputs, with_gradients

EPS = 0.5
NUMBERS = dict(momentum=0.9, step_size=0.7)
KERNELS = ["torch", "triton"] if HAS_TRITON else ["torch"]
SHORT, LONG = 5, 20  # beside features 8 and values 9 wide, in quadratic and in linear order
OPS = {
    "momentum": (momentum_attention, NUMBERS),
    "linear": (linear_attention, {}),
    "causal momentum": (causal_momentum_attention, NUMBERS),
    "causal linear": (causal_linear_attention, {}),
}


def oracle(op: str):
    """The recurrence with that eps."""
    numbers = NUMBERS if "momentum" in op else dict(momentum=0.0, step_size=1.0)
    return partial(recurrent_momentum_attention, causal="causal" in op, eps=EPS, **numbers)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("op", OPS)
def test_all_positions_at_once(op, length, kernel, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    (attention, numbers), leaves = OPS[op], inputs(length, length, 8, 9)
    ours = partial(attention, eps=EPS, **numbers)
    exact = with_gradients(oracle(op), doubled(leaves))
    assert_exact(with_gradients(ours, leaves), exact, LIMITS[torch.float32])
    with torch.no_grad():
        assert_exact([ours(*leaves)], exact[:1], LIMITS[torch.float32])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("op", OPS)
def test_sequences_without_padding(op, kernel, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    leaves = [x.detach() for x in inputs(SHORT, SHORT, 8, 9, batch=1)]
    (attention, numbers), bounds = OPS[op], torch.tensor([0, 2, SHORT], device=DEVICE)
    ours = padding_free_attention(attention, *leaves, cu_seqlens=bounds, eps=EPS, **numbers)
    exact = [oracle(op)(*x) for x in zip(*(x.double().split((2, SHORT - 2), dim=2) for x in leaves), strict=True)]
    assert_exact([ours], [torch.cat(exact, dim=2)], LIMITS[torch.float32])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("op", ["momentum", "linear"])
def test_step_by_step(op, in_place, kernel, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    q, k, v = (x.detach() for x in inputs(SHORT, SHORT, 8, 9))
    step = partial(momentum_attention_step, **NUMBERS) if op == "momentum" else linear_attention_step
    outputs, state = [], None
    for i in range(SHORT):
        out, state = step(q[:, :, i], k[:, :, i], v[:, :, i], state, eps=EPS, in_place=in_place)
        outputs.append(out)
    exact = oracle(f"causal {op}")(q.double(), k.double(), v.double())
    assert_exact([torch.stack(outputs, dim=2)], [exact], LIMITS[torch.float32])


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_a_pattern_of_queries_and_keys(length):
    q, k, v = (x.detach() for x in exact_inputs(length, length))
    assert_same([read_values(v, linear_pattern(q, k, None, None, eps=EPS))], [oracle("linear")(q, k, v)])


def padding_free(attention, q, k, v, **options):
    bounds = torch.tensor([0, 2, SHORT], device=DEVICE)
    return padding_free_attention(attention, q[:1], k[:1], v[:1], cu_seqlens=bounds, **options)


def step(attention, q, k, v, **options):
    return attention(q[:, :, 0], k[:, :, 0], v[:, :, 0], None, **options)


def scaled_step(q, k, v, **options):
    q, k, v = (x[:, :, 0] for x in (q, k, v))
    matrix = torch.zeros(*k.shape, v.shape[-1], device=DEVICE)
    state = ScaledMomentumState.of(MomentumState(matrix, matrix.clone(), torch.zeros_like(k)))
    return scaled_momentum_step_(q, k, v, state, **options, **NUMBERS)


def of_pattern(pattern, q, k, v, *options, eps):
    return read_values(v, pattern(q, k, None, None, *options, eps=eps))


FORMS = {
    "recurrence": partial(recurrent_momentum_attention, **NUMBERS),
    "symmetric": partial(symmetric_momentum_attention, **NUMBERS),
    "momentum step": partial(step, momentum_attention_step, **NUMBERS),
    "linear step": partial(step, linear_attention_step),
    "scaled step": scaled_step,
    "short": lambda q, k, v, eps: short_attention(q, k, v, None, key_padding_mask=None, eps=eps),
    "flash-linear-attention's": partial(chunk_momentum_attn, **NUMBERS),
    "pattern": partial(of_pattern, linear_pattern),
    "pattern of products": lambda q, k, v, eps: of_pattern(product_pattern, q, k, v, FEATURE_MAPS["taylor"], eps=eps),
    "source": lambda q, k, v, eps: read_source(q, weighted_source(k, v, None, None), eps=eps),
    **{op: partial(attention, **numbers) for op, (attention, numbers) in OPS.items()},
    **{f"{op} without padding": partial(padding_free, attention, **numbers) for op, (attention, numbers) in OPS.items()},
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", FORMS)
def test_without_one_a_row_of_no_real_key_is_zeros(form, kernel, monkeypatch):
    """Such keys are zeros, by the mask or by φ."""
    monkeypatch.setenv(VARIABLE, kernel)
    q, k, v = inputs(SHORT, SHORT, 8, 8)
    out = FORMS[form](q.detach(), torch.zeros_like(k), v.detach(), eps=0.0)
    out = out[0] if isinstance(out, tuple) else out
    expected = torch.zeros_like(out)
    if form == "pattern of products":  # φ(q)·φ(0) = 1: the mean of the values
        expected = v.mean(-2, keepdim=True).expand_as(out)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("op", OPS)
def test_without_one_padding_alone_is_zeros_with_gradients_of_zero(op, kernel, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    (attention, numbers), leaves = OPS[op], inputs(LONG, LONG, 8, 9)
    mask = torch.zeros(len(leaves[0]), LONG, dtype=torch.bool, device=DEVICE)
    mask[0] = True
    out = attention(*leaves, eps=0.0, key_padding_mask=mask, **numbers)
    gradients = torch.autograd.grad(out.sum(), leaves)
    assert all(not x[0].any() and x.isfinite().all() for x in (out, *gradients))
    assert all(x[1].any() for x in (out, *gradients))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("eps", [-1e-6, math.nan, math.inf])
@pytest.mark.parametrize("form", FORMS)
def test_one_below_0_is_refused(form, eps, kernel, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernel)
    leaves = [x.detach() for x in inputs(SHORT, SHORT, 8, 8)]
    with pytest.raises(ValueError, match=f"eps must be finite and not negative, got {eps}"):
        FORMS[form](*leaves, eps=eps)
