import math
import re
from functools import partial

import pytest
import torch

from momentum_fairseq.ops import (
    causal_momentum_attention,
    linear_attention,
    momentum_attention,
    recurrent_momentum_attention,
)
from momentum_fairseq.ops.momentum_weights import momentum_weights, weights_of_counts
from tests.ops.cases import LENGTHS, MOMENTA, SIDES, assert_same, inputs, padding_mask, value_and_gradients


def assert_is_the_oracle(q, k, v, mask, momentum, step_size):
    numbers = dict(momentum=momentum, step_size=step_size, key_padding_mask=mask)
    leaves = [q, k, v, *(x for x in (momentum, step_size) if isinstance(x, torch.Tensor))]
    ours = value_and_gradients(lambda: momentum_attention(q, k, v, **numbers), *leaves)
    oracle = value_and_gradients(lambda: recurrent_momentum_attention(q, k, v, causal=False, **numbers), *leaves)
    assert_same(ours, oracle)


def per_head(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_recurrence(length, momentum, side):
    assert_is_the_oracle(*inputs(length, length), padding_mask(3, length, side), momentum, 0.7)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_recurrence_with_a_momentum_and_a_step_size_a_head(length, side):
    mask = padding_mask(3, length, side)
    assert_is_the_oracle(*inputs(length, length), mask, per_head(0.3, 0.95), per_head(0.5, 2.0))


@pytest.mark.parametrize("momentum, step_size", [(0.6, per_head(0.5, 2.0)), (per_head(0.3, 0.95), 0.5)])
@pytest.mark.parametrize("masked", [True, False])
def test_one_of_the_two_may_be_learned(momentum, step_size, masked):
    assert_is_the_oracle(*inputs(7, 7), padding_mask(3, 7, "left") if masked else None, momentum, step_size)


@pytest.mark.parametrize("queries, keys", [(3, 11), (11, 3), (1, 65), (65, 1)])
def test_it_is_the_recurrence_for_other_numbers_of_queries_than_keys(queries, keys):
    assert_is_the_oracle(*inputs(queries, keys), padding_mask(3, keys, "both"), 0.6, 1.0)


@pytest.mark.parametrize("dim, value_dim", [(139, 139), (139, 4), (4, 139), (1, 1)])
def test_it_is_the_recurrence_for_any_dimensions(dim, value_dim):
    assert_is_the_oracle(*inputs(9, 9, dim=dim, value_dim=value_dim), padding_mask(3, 9, "left"), 0.9, 1.0)


def test_it_is_the_recurrence_without_a_mask():
    assert_is_the_oracle(*inputs(9, 9), None, 0.9, 1.0)


def test_it_is_the_recurrence_on_views_of_any_layout():
    q, k, v = (x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs(9, 9))
    assert_is_the_oracle(q, k, v, padding_mask(3, 9, "left"), 0.9, 1.0)


def test_a_momentum_tensor_of_zero_has_the_gradient_of_the_recurrence():
    assert_is_the_oracle(*inputs(7, 7), padding_mask(3, 7, "left"), per_head(0.0, 0.5), 1.0)


@pytest.mark.parametrize("causal", [False, True])
def test_a_momentum_tensor_of_zero_has_the_second_gradient_of_the_recurrence_too(causal):
    q, k, v = (x.detach() for x in inputs(7, 7))
    ours = causal_momentum_attention if causal else momentum_attention

    def second(attention):
        beta = per_head(0.0, 0.5)
        out = attention(q, k, v, momentum=beta, step_size=0.7, key_padding_mask=padding_mask(3, 7, "right"))
        (first,) = torch.autograd.grad(out.square().sum(), beta, create_graph=True)
        return torch.autograd.grad(first.sum(), beta)

    assert_same(second(ours), second(partial(recurrent_momentum_attention, causal=causal)))


@pytest.mark.parametrize("length", [3, 9])
def test_gradcheck(length):
    q, k, v = inputs(length, length, batch=2)
    mask, beta, gamma = padding_mask(2, length, "left"), per_head(0.3, 0.9), per_head(0.5, 2.0)

    def function(q, k, v, beta, gamma):
        return momentum_attention(q, k, v, momentum=beta, step_size=gamma, key_padding_mask=mask)

    assert torch.autograd.gradcheck(function, (q, k, v, beta, gamma))


def test_no_grad_changes_nothing():
    for length in (3, 40):
        q, k, v = inputs(length, length)
        numbers = dict(momentum=0.9, step_size=1.0, key_padding_mask=padding_mask(3, length, "left"))
        with torch.no_grad():
            before = [x.clone() for x in (q, k, v)]
            without = momentum_attention(q, k, v, **numbers)
        assert_same([q, k, v], before, tolerance=0)
        assert_same([momentum_attention(q, k, v, **numbers)], [without])


@pytest.mark.parametrize("length", LENGTHS)
def test_zero_momentum_is_step_size_times_linear_attention(length):
    q, k, v = inputs(length, length)
    mask = padding_mask(3, length, "both")
    ours = momentum_attention(q, k, v, momentum=0.0, step_size=3.0, key_padding_mask=mask)
    assert_same([ours], [3 * linear_attention(q, k, v, key_padding_mask=mask)])


@pytest.mark.parametrize("momentum", MOMENTA)
def test_one_key_alone_gives_step_size_times_its_value(momentum):
    q, k, v = inputs(1, 1)
    out = momentum_attention(q, k, v, momentum=momentum, step_size=0.5, eps=0.0)
    assert_same([out], [0.5 * v])


def test_the_last_row_of_the_causal_recurrence_is_the_non_causal_one():
    q, k, v = inputs(9, 9)
    numbers = dict(momentum=0.9, step_size=0.5, key_padding_mask=padding_mask(3, 9, "left"))
    causal = recurrent_momentum_attention(q, k, v, **numbers)
    assert_same([momentum_attention(q, k, v, **numbers)[:, :, -1]], [causal[:, :, -1]])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("length", [4, 30])
def test_batch_mates_and_the_side_of_the_padding_change_nothing(length, side):
    """A sentence alone, and the same one padded beside a longer one."""
    q, k, v = inputs(length, length, batch=1)
    alone = value_and_gradients(lambda: momentum_attention(q, k, v, momentum=0.9, step_size=1.0), q, k, v)
    left = {"left": 5, "right": 0, "both": 2}[side]
    generator = torch.Generator().manual_seed(2)

    def pad(x):
        ends = [torch.randn(*x.shape[:2], n, x.shape[3], generator=generator, dtype=x.dtype) for n in (left, 5 - left)]
        padded = torch.cat([ends[0], x, ends[1]], dim=2)
        return torch.cat([padded, torch.rand(padded.shape, generator=generator, dtype=x.dtype)])

    mask = torch.zeros(2, length + 5, dtype=torch.bool)
    mask[0, :left] = mask[0, left + length :] = True

    def padded():
        out = momentum_attention(pad(q), pad(k), pad(v), momentum=0.9, step_size=1.0, key_padding_mask=mask)
        return out[:1, :, left : left + length]

    assert_same(value_and_gradients(padded, q, k, v), alone)


@pytest.mark.parametrize("length", [4, 30])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e300])
def test_garbage_in_the_padding_goes_nowhere(length, garbage):
    q, k, v = inputs(length, length)
    mask, beta = padding_mask(3, length, "both"), per_head(0.3, 0.9)
    spoilt_k, spoilt_v = (x.detach().masked_fill(mask[:, None, :, None], garbage).requires_grad_() for x in (k, v))

    def attend(k, v):
        return lambda: momentum_attention(q, k, v, momentum=beta, step_size=1.0, key_padding_mask=mask)

    clean = value_and_gradients(attend(k, v), q, k, v, beta)
    assert_same(value_and_gradients(attend(spoilt_k, spoilt_v), q, spoilt_k, spoilt_v, beta), clean)


@pytest.mark.parametrize("length", [4, 30])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_row_of_padding_only_gives_zeros_and_finite_gradients(length, dtype):
    q, k, v = inputs(length, length, dtype=dtype)
    mask, beta = padding_mask(3, length, "left"), per_head(0.3, 0.9)
    mask[1] = True

    def attend():
        return momentum_attention(q, k, v, momentum=beta, step_size=1.0, key_padding_mask=mask)

    out, *gradients = value_and_gradients(attend, q, k, v, beta)
    assert out[1].eq(0).all()
    assert all(x.isfinite().all() for x in (out, *gradients))


@pytest.mark.parametrize("momentum", [-0.5, 1.0, 1.5, math.nan, math.inf])
def test_a_momentum_outside_0_1_is_refused_by_its_value(momentum):
    message = rf"momentum must be in \[0, 1\), got {momentum}"
    for attention in (momentum_attention, recurrent_momentum_attention):
        for given in (momentum, torch.tensor(momentum), per_head(0.5, momentum)):
            with pytest.raises(ValueError, match=message):
                attention(*inputs(2, 2), momentum=given, step_size=1.0)


@pytest.mark.parametrize("step_size", [0.0, -1.0, math.nan, math.inf])
def test_a_step_size_that_is_not_positive_is_refused_by_its_value(step_size):
    message = f"step_size must be positive and finite, got {step_size}"
    for attention in (momentum_attention, recurrent_momentum_attention):
        for given in (step_size, torch.tensor(step_size), per_head(0.5, step_size)):
            with pytest.raises(ValueError, match=message):
                attention(*inputs(2, 2), momentum=0.5, step_size=given)


@pytest.mark.parametrize("name", ["momentum", "step_size"])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_a_tensor_that_is_not_one_value_a_head_is_refused(name, shape):
    numbers = {"momentum": 0.5, "step_size": 1.0, name: torch.full(shape, 0.5)}
    message = f"{name} must be a number or a tensor [H] = [2], got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        momentum_attention(*inputs(2, 2), **numbers)


def test_weights_keep_their_digits_as_momentum_nears_1():
    weights = momentum_weights(4096, 1 - 1e-7, 1.0, None, dtype=torch.float64, device=torch.device("cpu"))
    momentum, total = 1 - 1e-7, 0.0
    for d in range(4096):
        total += momentum**d
        assert weights[-1 - d].item() == pytest.approx(total, rel=1e-9)


def test_weights_count_real_keys_from_the_end_on():
    mask = torch.tensor([[True, False, False, True, False], [False, False, False, False, True]])
    weights = momentum_weights(5, 0.5, 2.0, mask, dtype=torch.float64, device=torch.device("cpu"))
    assert weights[0, 0][~mask[0]].tolist() == [3.5, 3.0, 2.0]
    assert weights[1, 0][~mask[1]].tolist() == [3.75, 3.5, 3.0, 2.0]


@pytest.mark.parametrize("momentum", [0.0, 0.5, torch.tensor(0.0), torch.tensor(0.5)])
def test_no_real_key_adds_no_weight_and_the_first_one_the_step_size(momentum):
    assert weights_of_counts(torch.tensor([0.0, 1.0]), momentum, 2.0).flatten().tolist() == [0.0, 2.0]
