"""What an attention keeps from call to call, of a source or of queries and keys, gives what calling it anew gives."""

import pytest
import torch

from momentum_fairseq.ops import ProjectedSource
from tests.modules.attention_cases import VARIANTS, attention
from tests.ops.cases import SIDES, assert_same, padding_mask, value_and_gradients


def masked_case(side: str | None, keys: int):
    """q, k, v `[3,2,N,6]`, not feature-mapped, and the mask of `side`."""
    q, k, v = (torch.randn(3, 2, length, 6, dtype=torch.float64, requires_grad=True) for length in (4, keys, keys))
    return q, k, v, None if side is None else padding_mask(3, keys, side)


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("keys", [1, 5, 40])
@pytest.mark.parametrize("options", VARIANTS)
def test_keeping_the_source_or_the_queries_and_keys_changes_neither_values_nor_gradients(options, keys, side):
    module = attention(**options).attention
    q, k, v, mask = masked_case(side, keys)
    expected = value_and_gradients(lambda: module(q, k, v, mask), q, k, v)
    source = value_and_gradients(lambda: module.recall(q, module.remember(k, v, mask)), q, k, v)
    pattern = value_and_gradients(lambda: module.weigh(v, module.pattern(q, k, mask)), q, k, v)
    assert_same(source, expected)
    assert_same(pattern, expected)
    with torch.no_grad():
        assert_same([module.recall(q, module.remember(k, v, mask))], expected[:1])


@torch.no_grad()
@pytest.mark.parametrize("options", VARIANTS)
def test_remembering_a_source_for_many_reads_changes_nothing(options):
    module = attention(**options)
    query, source = (torch.randn(3, length, 12, dtype=torch.float64) for length in (4, 2))
    mask = torch.tensor([[True, False], [False, True], [False, False]])
    expected = module.recall(query, module.remember(source, mask))
    assert_same([module.recall(query, module.remember(source, mask, many_reads=True))], [expected])


@torch.no_grad()
@pytest.mark.parametrize("feature_map", ["elu", "taylor"])
def test_a_source_is_read_in_one_product_where_decoding_reads_it_often(feature_map):
    module, source = attention("momentum", feature_map=feature_map), torch.randn(3, 2, 12, dtype=torch.float64)
    assert isinstance(module.remember(source, None, many_reads=True), ProjectedSource)
    with torch.enable_grad():  # gradients of the plain form are quicker
        assert not isinstance(module.remember(source, None, many_reads=True), ProjectedSource)


@torch.no_grad()
def test_remembering_a_source_for_many_reads_leaves_a_projection_that_does_more_where_it_is():
    module = attention("momentum")
    query, source = (torch.randn(3, length, 12, dtype=torch.float64) for length in (4, 2))
    plain = module.recall(query, module.remember(source, None, many_reads=True))
    module.out_proj.register_forward_hook(lambda _, inputs, output: 2 * output)
    assert_same([module.recall(query, module.remember(source, None, many_reads=True))], [2 * plain])


@torch.no_grad()
def test_remembering_a_source_for_many_reads_takes_a_projection_without_bias():
    module = attention("momentum")
    module.out_proj.bias = None
    query, source = (torch.randn(3, length, 12, dtype=torch.float64) for length in (4, 2))
    memory = module.remember(source, None, many_reads=True)
    assert isinstance(memory, ProjectedSource)
    assert_same([module.recall(query, memory)], [module.recall(query, module.remember(source, None))])


@pytest.mark.parametrize("keys", [5, 40])
@pytest.mark.parametrize("options", VARIANTS)
def test_one_row_of_queries_and_keys_serves_the_whole_batch(options, keys):
    module = attention(**options).attention
    q, k, v, mask = masked_case("both", keys)
    q, k = q[:1], k[:1]
    for rows_mask in (mask, None):
        expected = module(q.expand(3, -1, -1, -1), k.expand(3, -1, -1, -1), v, rows_mask)
        pattern = module.pattern(q, k, rows_mask)
        assert_same([module.weigh(v, pattern)], [expected])
        order = torch.tensor([2, 0])
        assert_same([module.weigh(v[order], pattern.reorder(order))], [expected[order]])


@pytest.mark.parametrize("kind", ["linear", "momentum", "softmax"])
def test_what_is_kept_of_queries_and_keys_takes_no_more_room_than_they_do(kind):
    module = attention(kind).attention
    for keys in (5, 40):
        q, k = (torch.randn(1, 2, keys, 6, dtype=torch.float64) for _ in range(2))
        kept = [x for x in module.pattern(q, k, None) if x is not None]
        assert sum(x.numel() for x in kept) <= q.numel() + k.numel()


@pytest.mark.parametrize("options", VARIANTS)
def test_a_row_without_a_real_key_gives_zeros_from_what_is_kept(options):
    module = attention(**options).attention
    q, k, v, _ = masked_case(None, 5)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1] = True
    for out in (module.recall(q, module.remember(k, v, mask)), module.weigh(v, module.pattern(q, k, mask))):
        assert out[1].abs().max() == 0
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", VARIANTS)
def test_what_is_kept_gives_the_dtype_of_the_call(options, dtype):
    module = attention(**options).attention
    q, k, v, mask = masked_case("left", 5)
    expected = module(q, k, v, mask)
    low = [x.to(dtype) for x in (q, k, v)]
    for out in (
        module.recall(low[0], module.remember(*low[1:], mask)),
        module.weigh(low[2], module.pattern(*low[:2], mask)),
    ):
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["linear", "momentum", "softmax"])
def test_weights_of_the_values_are_kept_in_float32(kind, dtype):
    module = attention(kind).attention
    q, k, _, mask = masked_case("left", 5)
    assert {x.dtype for x in module.pattern(q.to(dtype), k.to(dtype), mask) if x is not None} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "momentum", "softmax"])
def test_autocast_changes_none_of_the_weights_that_are_kept(kind):
    module = attention(kind).attention
    q, k, _, mask = masked_case("left", 5)
    expected = module.pattern(q.float(), k.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = module.pattern(q.float(), k.float(), mask)
    assert torch.equal(found.left, expected.left)
