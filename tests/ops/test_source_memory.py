"""A source remembered once and read by queries that come later."""

from functools import partial

import pytest
import torch

from momentum_fairseq.ops import (
    KeysAndValues,
    ProjectedSource,
    linear_attention,
    momentum_attention,
    project_source,
    read_source,
    weighted_source,
)
from momentum_fairseq.ops.feature_maps import TaylorMap
from momentum_fairseq.ops.momentum_weights import momentum_weights
from tests.ops.cases import SIDES, assert_same, inputs, padding_mask, value_and_gradients

SHORT, LONG = 3, 30  # beside features 5 and values 3 wide: kept as keys and values, and as their sum


def remembered(k, v, mask, momentum=None, product_map=None):
    weights = None
    if momentum is not None:
        weights = momentum_weights(k.shape[2], momentum, 0.6, mask, dtype=v.dtype, device=v.device)
    return weighted_source(k, v, weights, mask, product_map)


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("queries", [1, 6])
@pytest.mark.parametrize("keys", [1, SHORT, LONG])
def test_reading_a_remembered_source_is_attending_to_it(keys, queries, side):
    q, k, v = (x.detach() for x in inputs(queries, keys))
    mask = None if side is None else padding_mask(3, keys, side)
    expected = linear_attention(q, k, v, key_padding_mask=mask)
    assert_same([read_source(q, remembered(k, v, mask))], [expected])
    expected = momentum_attention(q, k, v, momentum=0.9, step_size=0.6, key_padding_mask=mask)
    assert_same([read_source(q, remembered(k, v, mask, momentum=0.9))], [expected])


@torch.no_grad()
@pytest.mark.parametrize("keys", [SHORT, LONG])
def test_the_eps_of_the_reading_is_added_to_the_normaliser(keys):
    q, k, v = inputs(2, keys)
    source = remembered(k, v, None)
    expected = linear_attention(q, k, v, eps=0.5)
    assert_same([read_source(q, source, eps=0.5)], [expected])
    projected = read_source(q, project_source(source, weight(), None), eps=0.5)
    if keys == SHORT:
        assert_same([projected], [expected.transpose(1, 2).flatten(2) @ weight().t()])


def test_a_momentum_a_head_is_remembered_with_the_source():
    q, k, v = (x.detach() for x in inputs(2, LONG))
    mask, momentum = padding_mask(3, LONG, "left"), torch.tensor([0.1, 0.9], dtype=torch.float64)
    expected = momentum_attention(q, k, v, momentum=momentum, step_size=0.6, key_padding_mask=mask)
    assert_same([read_source(q, remembered(k, v, mask, momentum))], [expected])


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("keys", [1, SHORT])
def test_a_map_that_is_yet_to_be_taken_is_taken_of_the_products(keys, side, grad):
    leaves, mask, taylor = inputs(6, keys), None if side is None else padding_mask(3, keys, side), TaylorMap()
    options = {"momentum": 0.9, "step_size": 0.6, "key_padding_mask": mask, "feature_map": taylor}

    def read(q, k, v):
        return read_source(q, remembered(k, v, mask, momentum=0.9, product_map=taylor))

    if grad:
        both = read, partial(momentum_attention, **options)
        assert_same(*(value_and_gradients(lambda f=f: f(*leaves), *leaves) for f in both))
        return
    with torch.no_grad():
        expected = momentum_attention(*leaves, **options)
        assert_same([read(*leaves)], [expected])
        q, k, v = leaves
        source, order = remembered(k, v, mask, momentum=0.9, product_map=taylor), torch.tensor([2, 0, 0, 1])
        projected = project_source(source, weight(), bias())
        joined = expected.transpose(1, 2).flatten(2) @ weight().t() + bias()
        assert_same([read_source(q, projected)], [joined])
        assert_same([read_source(q[order], source.reorder(order)), read_source(q[order], projected.reorder(order))],
                    [expected[order], joined[order]])  # fmt: skip


@torch.no_grad()
def test_padding_may_hold_anything_where_a_map_is_yet_to_be_taken():
    q, k, v = inputs(2, SHORT)
    mask = padding_mask(3, SHORT, "left")
    mask[1] = True
    clean = read_source(q, remembered(k, v, mask, product_map=TaylorMap()))
    k[mask.unsqueeze(1).expand(-1, 2, -1)] = torch.nan
    v[mask.unsqueeze(1).expand(-1, 2, -1)] = torch.inf
    source = remembered(k, v, mask, product_map=TaylorMap())
    assert torch.equal(read_source(q, source), clean) and (clean[1] == 0).all() and (clean[0] != 0).all()
    assert (read_source(q, project_source(source, weight(), None))[1] == 0).all()


def test_a_long_source_is_kept_as_a_sum_whose_size_is_that_of_any_other():
    sizes = {sum(x.numel() for x in remembered(*inputs(1, keys)[1:], None) if x is not None) for keys in (LONG, 10 * LONG)}
    assert sizes == {3 * 2 * (5 * 3 + 5)}
    assert remembered(*inputs(1, SHORT)[1:], None).k is not None


@pytest.mark.parametrize("keys", [SHORT, LONG])
def test_padding_may_hold_anything_and_a_row_of_padding_reads_zeros(keys):
    q, k, v = (x.detach() for x in inputs(2, keys))
    mask = padding_mask(3, keys, "left")
    mask[1] = True
    clean = read_source(q, remembered(k, v, mask, momentum=0.6))
    k[mask.unsqueeze(1).expand(-1, 2, -1)] = torch.nan
    v[mask.unsqueeze(1).expand(-1, 2, -1)] = torch.inf
    out = read_source(q, remembered(k, v, mask, momentum=0.6))
    assert torch.equal(out, clean)
    assert (out[1] == 0).all()


@pytest.mark.parametrize("keys", [SHORT, LONG])
def test_reordering_is_remembering_other_rows(keys):
    q, k, v = (x.detach() for x in inputs(2, keys))
    mask, order = padding_mask(3, keys, "both"), torch.tensor([2, 0, 0, 1])
    reordered = read_source(q[order], remembered(k, v, mask).reorder(order))
    assert torch.equal(reordered, read_source(q, remembered(k, v, mask))[order])
    plain = KeysAndValues(k, v, mask).reorder(order)
    assert torch.equal(plain.k, k[order]) and torch.equal(plain.v, v[order]) and torch.equal(plain.padding, mask[order])
    assert KeysAndValues(k, v, None).reorder(order).padding is None


def weight(features: int = 18) -> torch.Tensor:
    """W of 2 heads of values 3 wide `[C,6]`."""
    return torch.randn(features, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def bias() -> torch.Tensor:
    return torch.linspace(-1, 1, 18, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("queries", [1, 6])
def test_a_projected_source_gives_the_joined_heads_projected(queries, side):
    q, k, v = inputs(queries, SHORT)
    mask = None if side is None else padding_mask(3, SHORT, side)
    source = remembered(k, v, mask, momentum=0.9)
    projected, order = project_source(source, weight(), bias()), torch.tensor([2, 0, 0, 1])
    assert isinstance(projected, ProjectedSource)
    assert_same([read_source(q, projected)], [read_source(q, source).transpose(1, 2).flatten(2) @ weight().t() + bias()])
    assert torch.equal(read_source(q[order], projected.reorder(order)), read_source(q, projected)[order])


@torch.no_grad()
def test_a_row_of_padding_in_a_projected_source_reads_zeros():
    q, k, v = inputs(2, SHORT)
    mask = torch.tensor([[False], [True], [False]]).expand(3, SHORT)
    out = read_source(q, project_source(remembered(k, v, mask, momentum=0.6), weight(), None))
    assert (out[1] == 0).all() and (out[0] != 0).all()


@torch.no_grad()
def test_a_source_is_projected_only_where_that_is_quicker():
    short, long = (remembered(*inputs(1, keys)[1:], None) for keys in (SHORT, LONG))
    assert isinstance(project_source(short, weight(6), None), ProjectedSource)
    assert project_source(short, weight(5), None) is short  # 2 (H − 1) S = 6 is more than C
    assert project_source(long, weight(999), None) is long  # a sum already
    assert project_source(short, weight().bfloat16(), None) is short
    with torch.autocast("cpu", torch.bfloat16):
        assert project_source(short, weight(), None) is short
    with torch.enable_grad():
        assert project_source(short, weight(), None) is short


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_taken_in_float32(dtype):
    """4096 keys of 100 sum up to more than float16 holds."""
    k, v = torch.full((1, 1, 4096, 8), 100.0, dtype=dtype), torch.ones(1, 1, 4096, 8, dtype=dtype)
    source = remembered(k, v, None)
    assert source.v.dtype == source.z.dtype == torch.float32
    torch.testing.assert_close(read_source(k[:, :, :1], source), torch.ones(1, 1, 1, 8), rtol=1e-5, atol=0)
