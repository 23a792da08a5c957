"""What causal linear and momentum attention have in common; the oracle of the first is the recurrence with β = 0, γ = 1."""

from functools import partial

import pytest
import torch

from momentum_fairseq.ops import (
    LinearState,
    MomentumState,
    causal_chunks,
    causal_linear_attention,
    causal_momentum_attention,
    linear_attention_step,
    momentum_attention_step,
    recurrent_momentum_attention,
)
from tests.ops.cases import assert_same, inputs, padding_mask, value_and_gradients

LENGTHS = (1, 7, 63, 65, 150)
SIDES = ("left", "right", "both", "inside")
NUMBERS = {"linear": {}, "momentum": {"momentum": 0.9, "step_size": 0.7}}
ORACLE = {"linear": {"momentum": 0.0, "step_size": 1.0}, "momentum": NUMBERS["momentum"]}
PARALLEL = {"linear": causal_linear_attention, "momentum": causal_momentum_attention}
STEP = {"linear": linear_attention_step, "momentum": momentum_attention_step}
STATE = {"linear": LinearState, "momentum": MomentumState}


@pytest.fixture(params=PARALLEL)
def kind(request):
    return request.param


@pytest.fixture(params=[8, 64], ids=lambda size: f"chunks of {size}")
def _chunks(request, monkeypatch):
    """Short sequences in several chunks, and in one; at the usual size, a chunk's square at 65."""
    monkeypatch.setattr(causal_chunks, "CHUNK", request.param)


def attention(kind):
    return partial(PARALLEL[kind], **NUMBERS[kind])


def oracle(kind):
    return partial(recurrent_momentum_attention, **ORACLE[kind])


def step(kind):
    return partial(STEP[kind], **NUMBERS[kind])


def mask_of(length, side, batch=3):
    if side != "inside":
        return padding_mask(batch, length, side)
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(5)) < 0.4
    mask[0] = False
    return mask


def cut(tensors, start, end):
    return [x[:, :, start:end] for x in tensors]


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_recurrence(kind, length, side):
    q, k, v = inputs(length, length)
    mask = mask_of(length, side)
    ours = value_and_gradients(lambda: attention(kind)(q, k, v, key_padding_mask=mask), q, k, v)
    assert_same(ours, value_and_gradients(lambda: oracle(kind)(q, k, v, key_padding_mask=mask), q, k, v))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_recurrence_without_a_mask(kind, length):
    q, k, v = inputs(length, length)
    ours = value_and_gradients(lambda: attention(kind)(q, k, v), q, k, v)
    assert_same(ours, value_and_gradients(lambda: oracle(kind)(q, k, v), q, k, v))
    with torch.no_grad():
        before = [x.clone() for x in (q, k, v)]
        assert_same([attention(kind)(q, k, v)], ours[:1])
        assert_same([q, k, v], before, tolerance=0)


@pytest.mark.parametrize("dim, value_dim", [(139, 139), (40, 2), (2, 40), (1, 1)])
def test_it_is_the_recurrence_for_any_dimensions(kind, dim, value_dim):
    tensors = inputs(130, 130, dim=dim, value_dim=value_dim, batch=1)
    assert_same([attention(kind)(*tensors)], [oracle(kind)(*tensors)])


def test_it_is_the_recurrence_on_views_of_any_layout(kind):
    tensors = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in inputs(150, 150)]
    assert_same([attention(kind)(*tensors)], [oracle(kind)(*tensors)])


@pytest.mark.parametrize("size, length, chunks", [(2, 13, 7), (64, 4, 1)])
def test_gradcheck_with_a_state_in_and_out(kind, size, length, chunks, monkeypatch):
    monkeypatch.setattr(causal_chunks, "CHUNK", size)
    fields = len(STATE[kind]._fields)
    assert causal_chunks.number_of_chunks(length, 2, 2, matrices=fields - 1) == chunks
    mask = padding_mask(2, length, "left")
    leaves = inputs(length, length, batch=2, dim=2, value_dim=2)
    state = [torch.rand(2, 2, 2, *([2] * (i < fields - 1)), dtype=torch.float64).requires_grad_() for i in range(fields)]

    def function(q, k, v, *state):
        out, state = attention(kind)(q, k, v, key_padding_mask=mask, initial_state=STATE[kind](*state), return_state=True)
        return out, *state

    assert torch.autograd.gradcheck(function, (*leaves, *state))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("cuts", [(0, 1, 8, 150), (0, 0, 64, 64, 65, 150), (0, 149, 150), (0, 75, 150)])
def test_a_sequence_in_pieces_gives_what_it_gives_in_one_go(kind, cuts, masked):
    q, k, v = inputs(150, 150)
    mask = mask_of(150, "inside") if masked else torch.zeros(3, 150, dtype=torch.bool)

    def whole():
        out, state = attention(kind)(q, k, v, key_padding_mask=mask, return_state=True)
        return torch.cat([x.flatten() for x in (out, *state)])

    def pieces():
        state, outs = None, []
        for start, end in zip(cuts[:-1], cuts[1:], strict=True):
            piece_mask = mask[:, start:end] if masked else None
            options = {"key_padding_mask": piece_mask, "initial_state": state, "return_state": True}
            out, state = attention(kind)(*cut((q, k, v), start, end), **options)
            outs.append(out)
        return torch.cat([x.flatten() for x in (torch.cat(outs, dim=2), *state)])

    assert_same(value_and_gradients(pieces, q, k, v), value_and_gradients(whole, q, k, v))


@pytest.mark.parametrize("length, linear, momentum", [(1, 1, 1), (256, 1, 1), (257, 5, 1), (384, 6, 1), (385, 7, 7)])
def test_short_sequences_are_one_chunk(length, linear, momentum):
    assert causal_chunks.number_of_chunks(length, 64, 64, matrices=1) == linear
    assert causal_chunks.number_of_chunks(length, 64, 64, matrices=2) == momentum


@pytest.mark.usefixtures("_chunks")
def test_growing_a_sequence_changes_no_earlier_row(kind):
    tensors = inputs(150, 150)
    whole = attention(kind)(*tensors)
    for length in (1, 9, 64, 65, 149):
        assert_same([attention(kind)(*cut(tensors, 0, length))], [whole[:, :, :length]])


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("length", [4, 130])
def test_batch_mates_and_the_side_of_the_padding_change_nothing(kind, length, side):
    """A sentence alone, and the same one padded beside a longer one: output, gradients and state."""
    q, k, v = inputs(length, length, batch=1)
    left = {"left": 13, "right": 0, "both": 6}[side]
    generator = torch.Generator().manual_seed(2)

    def pad(x):
        ends = [torch.rand(*x.shape[:2], n, x.shape[3], generator=generator, dtype=x.dtype) for n in (left, 13 - left)]
        padded = torch.cat([ends[0], x, ends[1]], dim=2)
        return torch.cat([padded, torch.rand(padded.shape, generator=generator, dtype=x.dtype)])

    mask = torch.zeros(2, length + 13, dtype=torch.bool)
    mask[0, :left] = mask[0, left + length :] = True

    def alone():
        out, state = attention(kind)(q, k, v, return_state=True)
        return torch.cat([x.flatten() for x in (out, *state)])

    def padded():
        out, state = attention(kind)(pad(q), pad(k), pad(v), key_padding_mask=mask, return_state=True)
        return torch.cat([x.flatten() for x in (out[:1, :, left : left + length], *(x[:1] for x in state))])

    assert_same(value_and_gradients(padded, q, k, v), value_and_gradients(alone, q, k, v))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e300])
def test_garbage_in_the_padding_goes_nowhere(kind, garbage):
    q, k, v = inputs(70, 70)
    mask = mask_of(70, "inside")
    spoilt_k, spoilt_v = (x.detach().masked_fill(mask[:, None, :, None], garbage).requires_grad_() for x in (k, v))
    clean = value_and_gradients(lambda: attention(kind)(q, k, v, key_padding_mask=mask), q, k, v)
    spoilt = value_and_gradients(lambda: attention(kind)(q, spoilt_k, spoilt_v, key_padding_mask=mask), q, spoilt_k, spoilt_v)
    assert_same(spoilt, clean)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_row_of_padding_only_gives_zeros_and_finite_gradients(kind, dtype):
    q, k, v = inputs(70, 70, dtype=dtype)
    mask = padding_mask(3, 70, "left")
    mask[1] = True
    out, *gradients = value_and_gradients(lambda: attention(kind)(q, k, v, key_padding_mask=mask), q, k, v)
    assert out[1].eq(0).all()
    assert all(x.isfinite().all() for x in (out, *gradients))


def test_nothing_is_divided_by_zero_where_the_last_chunk_is_filled_up(kind, monkeypatch):
    monkeypatch.setattr(causal_chunks, "CHUNK", 8)
    q, k, v = inputs(150, 150)  # 19 chunks of 8 positions, two of them too many
    assert all(x.isfinite().all() for x in value_and_gradients(lambda: attention(kind)(q, k, v, eps=0.0), q, k, v))


def test_no_position_at_all_gives_no_output_and_the_state_that_was(kind):
    tensors = inputs(9, 9)
    _, state = attention(kind)(*tensors, return_state=True)
    out, after = attention(kind)(*cut(tensors, 9, 9), initial_state=state, return_state=True)
    assert out.shape == (3, 2, 0, 3)
    assert_same(after, state, tolerance=0)


@pytest.mark.parametrize("in_place", [True, False])
def test_steps_give_what_all_positions_at_once_give(kind, in_place):
    tensors = [x.detach() for x in inputs(20, 20)]
    before = [x.clone() for x in tensors]
    expected, expected_state = attention(kind)(*tensors, return_state=True)
    state, outs = None, []
    for i in range(20):
        out, state = step(kind)(*(x[:, :, i] for x in tensors), state, in_place=in_place)
        outs.append(out)
    assert_same([torch.stack(outs, dim=2), *state], [expected, *expected_state])
    assert_same(tensors, before, tolerance=0)


def test_gradients_flow_through_steps(kind):
    q, k, v = inputs(6, 6)

    def steps():
        state, outs = None, []
        for i in range(6):
            out, state = step(kind)(q[:, :, i], k[:, :, i], v[:, :, i], state)
            outs.append(out)
        return torch.stack(outs, dim=2)

    assert_same(value_and_gradients(steps, q, k, v), value_and_gradients(lambda: attention(kind)(q, k, v), q, k, v))


def test_a_step_leaves_the_state_it_was_given_unless_it_may_write_over_it(kind):
    tensors = [x.detach() for x in inputs(9, 9)]
    _, state = attention(kind)(*tensors, return_state=True)
    before = [x.clone() for x in state]
    expected = step(kind)(*(x[:, :, 0] for x in tensors), state)
    assert_same(state, before, tolerance=0)
    out, after = step(kind)(*(x[:, :, 0] for x in tensors), state, in_place=True)
    assert_same([out, *after], [expected[0], *expected[1]], tolerance=0)
    assert [x.data_ptr() for x in after] == [x.data_ptr() for x in state]


def test_a_step_in_place_is_refused_where_gradients_are_taken(kind):
    q, k, v = (x[:, :, 0] for x in inputs(2, 2))
    _, state = step(kind)(q, k, v, None)
    with pytest.raises(RuntimeError, match="out=.*requires grad"):
        step(kind)(q, k, v, state, in_place=True)


def test_beams_reordered_between_steps_go_on_as_if_each_had_run_alone(kind):
    tensors = [x.detach() for x in inputs(12, 12)]
    order = torch.tensor([2, 0, 0, 1])
    _, state = attention(kind)(*cut(tensors, 0, 7), return_state=True)
    state = state.reorder(order)
    assert type(state) is STATE[kind]
    reordered = [x[order] for x in tensors]
    expected = attention(kind)(*reordered)
    for i in range(7, 12):
        out, state = step(kind)(*(x[:, :, i] for x in reordered), state)
        assert_same([out], [expected[:, :, i]])


def test_a_state_is_float32_at_least(kind):
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)):
        tensors = [x.detach() for x in inputs(9, 9, dtype=dtype)]
        out, state = attention(kind)(*tensors, return_state=True)
        assert out.dtype == dtype
        assert {x.dtype for x in state} == {expected}
        out, state = step(kind)(*(x[:, :, 0] for x in tensors), state)
        assert out.dtype == dtype
        assert {x.dtype for x in state} == {expected}


def test_a_state_keeps_no_memory_but_its_own(kind):
    _, state = attention(kind)(*(x.detach() for x in inputs(150, 150)), return_state=True)
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in state)


def test_other_numbers_of_queries_than_keys_are_refused(kind):
    with pytest.raises(ValueError, match="as many queries as keys, got N = 3, S = 4"):
        attention(kind)(*inputs(3, 4))


def test_a_state_of_other_shapes_is_refused_by_its_name_and_shape(kind):
    tensors = inputs(4, 4)
    _, state = attention(kind)(*tensors, return_state=True)
    name = STATE[kind].__name__
    for wrong, found in ((state._replace(s=state.s[:2]), "s must be"), (state._replace(z=state.z[..., :4]), "z must be")):
        with pytest.raises(ValueError, match=rf"{name}.{found} \[3, 2, 5.*\] to go with k and v, got \[.*\]"):
            attention(kind)(*tensors, initial_state=wrong)
        with pytest.raises(ValueError, match=f"{name}.{found}"):
            step(kind)(*(x[:, :, 0] for x in tensors), wrong)


def test_a_state_of_another_kind_is_refused(kind):
    tensors = inputs(4, 4)
    _, state = attention(kind)(*tensors, return_state=True)
    name, fields = STATE[kind].__name__, ", ".join(state._fields)
    other = MomentumState if kind == "linear" else LinearState
    for wrong, found in (
        (other(*(state.s for _ in other._fields)), f"must be a {name}, got {other.__name__}"),
        (state.s, f"must be a {name}, got Tensor"),
        (tuple(state)[1:], rf"must be a {name} \({fields}\), got {len(state) - 1} tensors"),
        ((None, *state[1:]), f"{name}.s must be a tensor, got NoneType"),
    ):
        with pytest.raises(ValueError, match=found):
            attention(kind)(*tensors, initial_state=wrong)
        with pytest.raises(ValueError, match=found):
            step(kind)(*(x[:, :, 0] for x in tensors), wrong)


@pytest.mark.parametrize("plain", [tuple, list])
def test_a_plain_tuple_of_the_tensors_of_a_state_is_that_state(kind, plain):
    tensors = inputs(4, 4)
    _, state = attention(kind)(*tensors, return_state=True)
    one = [x[:, :, 0] for x in tensors]
    assert torch.equal(attention(kind)(*tensors, initial_state=plain(state)), attention(kind)(*tensors, initial_state=state))
    assert torch.equal(step(kind)(*one, plain(state))[0], step(kind)(*one, state)[0])


def test_a_step_of_other_shapes_is_refused(kind):
    q, k, v = inputs(4, 4)
    for wrong in ((q, k, v), (q[:, :, 0], k[:, :, 0, :4], v[:, :, 0]), (q[:, :, 0], k[:, :, 0], v[:2, :, 0])):
        with pytest.raises(ValueError, match=r"a step takes q \[B,H,D\].*; got q \(3, 2"):
            step(kind)(*wrong, None)
