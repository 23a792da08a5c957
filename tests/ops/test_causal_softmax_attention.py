"""Causal softmax attention and its key/value cache."""

import pytest
import torch

from momentum_fairseq.ops import KeyValueCache, causal_softmax_attention
from momentum_fairseq.ops.key_value_cache import FIRST_ROOM
from tests.ops.cases import LENGTHS, SIDES, assert_same, inputs, padding_mask, value_and_gradients


def formula(q, k, v, mask):
    """A softmax over the real keys up to the query's position, the queries being the last of the positions."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    position = torch.arange(k.shape[2])
    hidden = position > position[-q.shape[2] :, None]
    hidden = hidden if mask is None else hidden | mask[:, None, None]
    return scores.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0) @ v


@pytest.mark.parametrize("side", [None, "right"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("all_queries", [True, False])
def test_it_is_the_formula(length, side, all_queries):
    q, k, v = inputs(length if all_queries else (length + 1) // 2, length)
    mask = None if side is None else padding_mask(3, length, side)
    ours = value_and_gradients(lambda: causal_softmax_attention(q, k, v, key_padding_mask=mask), q, k, v)
    assert_same(ours, value_and_gradients(lambda: formula(q, k, v, mask), q, k, v))


@pytest.mark.parametrize("side", SIDES)
def test_a_query_with_nothing_but_padding_before_it_gives_zeros_and_finite_gradients(side):
    q, k, v = inputs(7, 7)
    mask = padding_mask(3, 7, side)
    out, *gradients = value_and_gradients(lambda: causal_softmax_attention(q, k, v, key_padding_mask=mask), q, k, v)
    assert_same([out], [formula(q, k, v, mask).detach()])
    assert (side != "right") == bool((out == 0).all(-1).any())
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_later_keys_change_nothing():
    q, k, v = (x.detach() for x in inputs(9, 9))
    before = causal_softmax_attention(q, k, v)
    for changed in (k, v):
        changed[:, :, 5:] += 3
    after = causal_softmax_attention(q, k, v)
    assert_same([after[:, :, :5]], [before[:, :, :5]])
    assert (after[:, :, 5:] - before[:, :, 5:]).abs().max() > 1e-2


def test_more_queries_than_keys_are_refused():
    q, k, v = inputs(3, 2)
    with pytest.raises(ValueError, match="needs a key for each query, got N = 3, S = 2"):
        causal_softmax_attention(q, k, v)


@pytest.mark.parametrize("pieces", [[1] * 130, [5, 1, 1, 90, 33], [FIRST_ROOM + 1, 65], [130]])
@pytest.mark.parametrize("side", [None, "left", "both"])
def test_a_cache_filled_piece_by_piece_holds_what_was_put_in(pieces, side):
    _, k, v = (x.detach() for x in inputs(1, 130))
    mask = torch.zeros(3, 130, dtype=torch.bool) if side is None else padding_mask(3, 130, side)
    cache, at = KeyValueCache.empty(k, v), 0
    for size in pieces:
        piece = slice(at, at + size)
        padding = mask[:, piece] if mask[:, piece].any() else None
        cache, at = cache.append(k[:, :, piece], v[:, :, piece], padding), at + size
        keys, values, padding = cache.held()
        assert torch.equal(keys, k[:, :, :at]) and torch.equal(values, v[:, :, :at])
        assert torch.equal(padding, mask[:, :at]) if padding is not None else not mask[:, :at].any()


def test_the_room_of_a_cache_doubles_and_a_token_in_it_moves_no_other():
    cache = KeyValueCache.empty(*inputs(1, 0)[1:])
    rooms, moves = set(), 0
    for token in range(4 * FIRST_ROOM):
        k, v = torch.full((3, 2, 1, 5), float(token)), torch.full((3, 2, 1, 3), float(token))
        before, cache = cache, cache.append(k, v, None)
        moves += cache.k.data_ptr() != before.k.data_ptr()
        rooms.add(cache.k.shape[2])
    assert rooms == {FIRST_ROOM, 2 * FIRST_ROOM, 4 * FIRST_ROOM}
    assert moves == len(rooms)


@pytest.mark.parametrize("padded", [False, True])
def test_reordering_a_cache_is_filling_it_in_the_other_order(padded):
    _, k, v = (x.detach() for x in inputs(1, 6))
    mask = padding_mask(3, 6, "left") if padded else None
    order = torch.tensor([2, 0, 2, 1])
    reordered = KeyValueCache.empty(k, v).append(k, v, mask).reorder(order).append(k[order], v[order], None)
    expected = KeyValueCache.empty(k[order], v[order]).append(k[order], v[order], None if mask is None else mask[order])
    expected = expected.append(k[order], v[order], None)
    for ours, theirs in zip(reordered.held(), expected.held(), strict=True):
        assert theirs is None and ours is None or torch.equal(ours, theirs)
