"""Sequences without padding: as each of them alone, through torch's operations and through Triton's kernels."""

import math
import re
from functools import partial

import pytest
import torch

from momentum_fairseq.ops import (
    FEATURE_MAPS,
    LinearState,
    MomentumState,
    causal_linear_attention,
    causal_momentum_attention,
    linear_attention,
    momentum_attention,
    softmax_attention,
)
from momentum_fairseq.ops.flash_linear_attention_convention import chunk_momentum_attn
from momentum_fairseq.ops.kernel_choice import HAS_TRITON, VARIABLE
from momentum_fairseq.ops.padding_free import padding_free_attention
from tests.ops.cases import assert_same, inputs, value_and_gradients
from tests.ops.kernel_cases import DEVICE, LIMITS, assert_exact, doubled, with_gradients
from tests.ops.kernel_cases import inputs as kernel_inputs

NUMBERS = dict(momentum=0.9, step_size=0.7)
OPS = {
    "momentum": (momentum_attention, NUMBERS),
    "causal momentum": (causal_momentum_attention, NUMBERS),
    "linear": (linear_attention, {}),
    "causal linear": (causal_linear_attention, {}),
    "softmax": (softmax_attention, {}),
}
LENGTHS, KEY_LENGTHS = (3, 1, 7, 0, 70), (5, 2, 0, 3, 1)


def bounds(lengths, dtype=torch.int32):
    return torch.tensor([0, *lengths]).cumsum(0).to(DEVICE, dtype)


def one_by_one(attention, lengths, key_lengths, q, k, v, **options):
    parts = zip(*(x.split(n, dim=2) for x, n in ((q, lengths), (k, key_lengths), (v, key_lengths))), strict=True)
    return torch.cat([attention(*part, **options) for part in parts if part[0].shape[2]], dim=2)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("op", OPS)
def test_it_is_each_sequence_alone(op, dtype):
    attention, numbers = OPS[op]
    leaves = inputs(81, 81, batch=1)
    cu = bounds(LENGTHS, dtype).cpu()
    ours = value_and_gradients(lambda: padding_free_attention(attention, *leaves, cu_seqlens=cu, **numbers), *leaves)
    alone = value_and_gradients(lambda: one_by_one(attention, LENGTHS, LENGTHS, *leaves, **numbers), *leaves)
    assert_same(ours, alone)


def test_queries_may_read_sequences_of_another_length():
    q, k, v = inputs(81, 11, batch=1)
    cu = dict(cu_seqlens=bounds(LENGTHS).cpu(), key_cu_seqlens=bounds(KEY_LENGTHS).cpu())
    ours = value_and_gradients(lambda: padding_free_attention(momentum_attention, q, k, v, **cu, **NUMBERS), q, k, v)
    alone = value_and_gradients(lambda: one_by_one(momentum_attention, LENGTHS, KEY_LENGTHS, q, k, v, **NUMBERS), q, k, v)
    assert_same(ours, alone)


@pytest.mark.parametrize("lengths, key_lengths", [((3, 1, 0, 9), (5, 2, 3, 11)), ((40, 5, 0, 9), (2, 40, 3, 0))])
@pytest.mark.parametrize("learned", [False, True])
def test_triton_reads_each_sequence_where_it_lies(lengths, key_lengths, learned, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, "triton")
    leaves = kernel_inputs(sum(lengths), sum(key_lengths), 8, 9, batch=1, heads=2)
    cu = dict(cu_seqlens=bounds(lengths), key_cu_seqlens=bounds(key_lengths))
    tensors = [torch.tensor(x, device=DEVICE, requires_grad=True) for x in ([0.3, 0.95], [0.5, 2.0])] if learned else []

    def ours(q, k, v, *rest):
        numbers = dict(zip(NUMBERS, rest, strict=True)) if learned else NUMBERS
        return padding_free_attention(momentum_attention, q, k, v, **cu, **numbers)

    def alone(q, k, v, *rest):
        numbers = dict(zip(NUMBERS, rest, strict=True)) if learned else NUMBERS
        return one_by_one(momentum_attention, lengths, key_lengths, q, k, v, **numbers)

    leaves += tensors
    kernel = with_gradients(ours, leaves)
    monkeypatch.setenv(VARIABLE, "torch")
    assert_exact(kernel, with_gradients(alone, doubled(leaves)), LIMITS[torch.float32])


def test_causal_sequences_whose_keys_are_cut_elsewhere_are_not_taken_for_their_queries(monkeypatch):
    pytest.importorskip("triton")
    leaves = [x.detach() for x in kernel_inputs(9, 9, 8, 9, batch=1)]
    cu = {"cu_seqlens": bounds((3, 6)), "key_cu_seqlens": bounds((6, 3))}
    found = []
    for kernel in ("torch", "triton"):
        monkeypatch.setenv(VARIABLE, kernel)
        found.append(padding_free_attention(causal_momentum_attention, *leaves, **cu, **NUMBERS))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
@pytest.mark.parametrize("op", [op for op in OPS if op != "softmax"])
def test_a_feature_map_is_taken_of_each_sequence(op, feature_map, monkeypatch):
    attention, numbers = OPS[op]
    q, k, v = (x.detach() for x in kernel_inputs(sum(LENGTHS), sum(LENGTHS), 8, 9, batch=1, mapped=False))
    phi = FEATURE_MAPS[feature_map]
    expected = one_by_one(attention, LENGTHS, LENGTHS, phi(q).double(), phi(k).double(), v.double(), **numbers)
    for kernel in ("torch", "triton") if HAS_TRITON else ("torch",):
        monkeypatch.setenv(VARIABLE, kernel)
        found = padding_free_attention(attention, q, k, v, cu_seqlens=bounds(LENGTHS), feature_map=phi, **numbers)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", [op for op in OPS if op != "softmax"])
def test_cu_seqlens_may_have_gaps_in_memory(op, monkeypatch):
    attention, numbers = OPS[op]
    q, k, v = (x.detach() for x in kernel_inputs(sum(LENGTHS), sum(LENGTHS), 8, 9, batch=1))
    cu = bounds(LENGTHS)
    with_gaps = torch.stack([cu, cu.flip(0)], dim=1)[:, 0]
    for kernel in ("torch", "triton") if HAS_TRITON else ("torch",):
        monkeypatch.setenv(VARIABLE, kernel)
        expected = padding_free_attention(attention, q, k, v, cu_seqlens=cu, **numbers)
        assert torch.equal(padding_free_attention(attention, q, k, v, cu_seqlens=with_gaps, **numbers), expected)


def small_chunks(monkeypatch, segments):
    """Several chunks and segments in a short sequence; the kernels' number of segments is noted in the list that it returns."""
    pytest.importorskip("triton")
    from momentum_fairseq.ops.kernels import causal_launches, causal_setting

    monkeypatch.setenv(VARIABLE, "triton")
    monkeypatch.setattr(causal_setting, "tile_of", lambda *_: causal_setting.Tile(16, 32, 4, 1))
    monkeypatch.setattr(causal_setting, "number_of_segments", lambda *_: segments)
    forward, walked = causal_launches.forward, []

    def noted(q, k, v, setting, *rest):
        walked.append(setting.segments)
        return forward(q, k, v, setting, *rest)

    monkeypatch.setattr(causal_launches, "forward", noted)
    return walked


CAUSAL_OPS = [("causal momentum", False), ("causal momentum", True), ("causal linear", False)]


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("op, learned", CAUSAL_OPS)
def test_triton_walks_over_each_causal_sequence_where_it_lies(op, learned, segments, monkeypatch):
    """Output, states and all gradients, those of the states too, are those of each sequence alone in float64."""
    walked = small_chunks(monkeypatch, segments)
    lengths = (37, 5, 0, 16)
    attention, numbers = OPS[op]
    leaves = kernel_inputs(sum(lengths), sum(lengths), 8, 9, batch=1, heads=2)
    learnable = {"momentum": [0.3, 0.95], "step_size": [0.5, 2.0]} if learned else {}
    leaves += [torch.tensor(x, device=DEVICE, requires_grad=True) for x in learnable.values()]
    shapes = [(len(lengths), 2, 8, 9)] * (1 if op == "causal linear" else 2) + [(len(lengths), 2, 8)]
    leaves += [torch.rand(shape, generator=torch.Generator().manual_seed(7)).to(DEVICE).requires_grad_() for shape in shapes]
    kind = LinearState if op == "causal linear" else MomentumState

    def parts(given):
        own = {**numbers, **dict(zip(learnable, given, strict=False))}
        return own, kind(*given[len(learnable) :])

    def ours(q, k, v, *given):
        own, state = parts(given)
        options = {"initial_state": state, "return_state": True, "cu_seqlens": bounds(lengths)}
        out, last = padding_free_attention(attention, q, k, v, **options, **own)
        return torch.cat([out.flatten(), *(x.flatten() for x in last)])

    def alone(q, k, v, *given):
        own, state = parts(given)
        outs, lasts, start = [], [], 0
        for i, length in enumerate(lengths):
            first = kind(*(x[i : i + 1] for x in state))
            piece = (x[:, :, start : start + length] for x in (q, k, v))
            out, last = attention(*piece, initial_state=first, return_state=True, **own)
            outs.append(out)
            lasts.append(last)
            start += length
        states = (torch.cat(x) for x in zip(*lasts, strict=True))
        return torch.cat([torch.cat(outs, dim=2).flatten(), *(x.flatten() for x in states)])

    kernel = with_gradients(ours, leaves)
    assert walked == [segments]
    monkeypatch.setenv(VARIABLE, "torch")
    assert_exact(kernel, with_gradients(alone, doubled(leaves)), LIMITS[torch.float32])


def test_each_sequence_goes_on_from_a_state_of_its_own():
    q, k, v = (x.detach() for x in inputs(22, 22, batch=1))
    options, halves = dict(return_state=True, **NUMBERS), [(x[:, :, :11], x[:, :, 11:]) for x in (q, k, v)]
    first, second = (dict(cu_seqlens=bounds(lengths).cpu()) for lengths in ((4, 0, 7), (2, 6, 3)))
    attend = partial(padding_free_attention, causal_momentum_attention)
    out, state = attend(*(x for x, _ in halves), **first, **options)
    more, last = attend(*(x for _, x in halves), initial_state=state, **second, **options)
    order = [0, 1, 2, 3, 11, 12, *range(13, 19), *range(4, 11), 19, 20, 21]
    together = (x[:, :, order] for x in (q, k, v))
    expected, expected_state = attend(*together, cu_seqlens=bounds((6, 6, 10)).cpu(), **options)
    assert_same([torch.cat([out, more], dim=2)[:, :, order], *last], [expected, *expected_state])


def test_a_nan_stays_in_its_sequence():
    q, k, v = inputs(11, 11, batch=1)
    cu = bounds((4, 0, 7)).cpu()
    with torch.no_grad():
        for x in (q, k, v):
            x[0, 0, 5] = math.nan
    out, *gradients = value_and_gradients(
        lambda: padding_free_attention(causal_momentum_attention, q, k, v, cu_seqlens=cu, eps=0.0, **NUMBERS), q, k, v
    )
    assert out[:, :, 5:].isnan().any()
    assert all(x[:, :, :4].isfinite().all() for x in (out, *gradients))


@pytest.mark.parametrize("max_length", [None, 4])
@pytest.mark.parametrize("lengths", [(), (0,), (0, 0)])
def test_no_positions_give_none(lengths, max_length):
    q, k, v = inputs(0, 0, batch=1)
    cu = {"cu_seqlens": bounds(lengths).cpu(), "max_length": max_length}
    out = padding_free_attention(momentum_attention, q, k, v, **cu, **NUMBERS)
    assert out.shape == (1, 2, 0, 3)


@pytest.mark.parametrize(
    ("cu", "message"),
    [
        ([0, 5, 3, 9], "cu_seqlens must ascend, got 5 before 3 at [1]"),
        ([0, 4, 8], "cu_seqlens must begin with 0 and end with 9, as many as there are; got 0 and 8"),
        ([1, 4, 9], "cu_seqlens must begin with 0 and end with 9, as many as there are; got 1 and 9"),
        ([0.0, 9.0], "cu_seqlens must be int32 or int64 [n+1], got torch.float32 [2]"),
        ([[0, 9]], "cu_seqlens must be int32 or int64 [n+1], got torch.int64 [1, 2]"),
        (torch.zeros(0, dtype=torch.long), "cu_seqlens must be int32 or int64 [n+1], got torch.int64 [0]"),
    ],
)
def test_bounds_that_do_not_describe_the_sequences_are_refused(cu, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        padding_free_attention(momentum_attention, *inputs(9, 9, batch=1), cu_seqlens=torch.as_tensor(cu), **NUMBERS)


def test_what_does_not_fit_together_is_refused():
    cu = torch.tensor([0, 4, 9])
    with pytest.raises(ValueError, match=r"takes q \[1,H,T,D\].*got q \(3, 2, 9, 5\)"):
        padding_free_attention(momentum_attention, *inputs(9, 9), cu_seqlens=cu, **NUMBERS)
    with pytest.raises(ValueError, match="as many sequences, got cu_seqlens of 2 and key_cu_seqlens of 1"):
        padding_free_attention(momentum_attention, *inputs(9, 9, batch=1), cu_seqlens=cu, key_cu_seqlens=cu[::2], **NUMBERS)
    with pytest.raises(ValueError, match="a sequence of 5, above max_length 4"):
        padding_free_attention(momentum_attention, *inputs(9, 9, batch=1), cu_seqlens=cu, max_length=4, **NUMBERS)
    with pytest.raises(ValueError, match="on cpu; it is on meta"):
        padding_free_attention(momentum_attention, *inputs(9, 9, batch=1), cu_seqlens=cu.to("meta"), **NUMBERS)


def test_torch_compile_traces_it_whole_where_the_longest_length_is_given():
    leaves, cu = inputs(9, 9, batch=1), torch.tensor([0, 4, 9])

    def attention(q, k, v):
        return padding_free_attention(momentum_attention, q, k, v, cu_seqlens=cu, max_length=6, **NUMBERS)

    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    assert_same(value_and_gradients(lambda: compiled(*leaves), *leaves), value_and_gradients(lambda: attention(*leaves), *leaves))


@pytest.mark.parametrize("scale", [None, 1.0, 0.01])
def test_the_adaptor_gives_the_same_with_heads_after_positions(scale):
    q, k, v = inputs(9, 9)
    numbers = dict(momentum=0.9, step_size=0.7)
    ours, state = chunk_momentum_attn(*(x.transpose(1, 2) for x in (q, k, v)), **numbers, scale=scale, output_final_state=True)
    factor = 5**-0.5 if scale is None else scale
    expected, expected_state = causal_momentum_attention(factor * q, k, v, return_state=True, **numbers)
    assert_same([ours.transpose(1, 2), *state], [expected, *expected_state])


def test_the_adaptor_takes_states_and_sequences_without_padding():
    q, k, v = inputs(9, 9, batch=1)
    shapes = ((2, 2, 5, 3), (2, 2, 5, 3), (2, 2, 5))
    state = MomentumState(*(torch.rand(shape, generator=torch.Generator().manual_seed(3)).double() for shape in shapes))
    cu = torch.tensor([0, 4, 9])
    ours, none = chunk_momentum_attn(*(x.transpose(1, 2) for x in (q, k, v)), 0.9, 0.7, 1.0, state, cu_seqlens=cu)
    assert none is None
    for i, part in enumerate((slice(0, 4), slice(4, 9))):
        own = MomentumState(*(x[i : i + 1] for x in state))
        expected = causal_momentum_attention(*(x[:, :, part] for x in (q, k, v)), **NUMBERS, initial_state=own)
        assert_same([ours[:, part].transpose(1, 2)], [expected])


@pytest.mark.parametrize("scale", [0, -1.0, math.inf, math.nan])
def test_the_adaptor_refuses_a_scale_that_is_not_positive_and_finite(scale):
    with pytest.raises(ValueError, match=f"scale must be positive and finite, got {scale}"):
        chunk_momentum_attn(*(x.transpose(1, 2) for x in inputs(3, 3)), 0.9, scale=scale)


def test_the_adaptor_refuses_tensors_without_a_head_axis():
    with pytest.raises(ValueError, match=r"attention takes q \[B,H,N,D\].*got q \(3, 3, 5\)"):
        chunk_momentum_attn(*(x[:, 0] for x in inputs(3, 3)), 0.9)
