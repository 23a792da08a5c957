"""The non-causal Triton kernels against the float64 oracle: natively where there is a GPU, else in Triton's interpreter."""

import math
from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from momentum_fairseq.ops import (
    elu_plus_one,
    linear_attention,
    momentum_attention,
    momentum_attention_step,
    recurrent_momentum_attention,
    symmetric_momentum_attention,
)
from momentum_fairseq.ops.kernel_choice import VARIABLE
from momentum_fairseq.ops.kernels import noncausal_launches
from tests.ops.cases import padding_mask
from tests.ops.kernel_cases import DEVICE, LIMITS, MOMENTA, assert_exact, doubled, draw, inputs, with_gradients

QUADRATIC, LINEAR = dict(queries=17, keys=19, dim=33, value_dim=20), dict(queries=33, keys=35, dim=8, value_dim=9)
ORDERS = {"quadratic": QUADRATIC, "linear": LINEAR}

pytest_plugins = ["tests.ops.kernel_fixtures"]
pytestmark = pytest.mark.usefixtures("by_triton")


def mask_of(keys, side, batch=2):
    if side is None:
        return None
    mask = padding_mask(batch, keys, "left" if side == "a whole row" else side)
    if side == "a whole row":
        mask[1] = True
    return mask.to(DEVICE)


def oracle(q, k, v, **options):
    return recurrent_momentum_attention(q, k, v, causal=False, **options)


def assert_is_the_oracle(leaves, **options):
    """Values and gradients of q, k, v, and of the numbers that are tensors."""
    numbers = [x for x in ("momentum", "step_size") if isinstance(options.get(x), torch.Tensor)]
    fixed = {name: x for name, x in options.items() if name not in numbers}

    def call(function):
        return lambda q, k, v, *rest: function(q, k, v, **fixed, **dict(zip(numbers, rest, strict=True)))

    leaves = [*leaves, *(options[name] for name in numbers)]
    ours = with_gradients(call(momentum_attention), leaves)
    assert_exact(ours, with_gradients(call(oracle), doubled(leaves)), LIMITS[leaves[2].dtype])


@pytest.mark.parametrize("length", [8, 80])
def test_two_billion_numbers_may_lie_between_two_heads(length):
    """Beyond the reach of 32 bits, as in a long batch without padding."""
    heads, dim = 3, 16
    memory = torch.empty(2**31 + length * dim, dtype=torch.float16, device=DEVICE)  # of which almost nothing is touched
    q = memory.as_strided((1, heads, length, dim), (2**31, 2**30, dim, 1))
    _, k, v = leaves = inputs(length, length, dim, dim, batch=1, heads=heads, dtype=torch.float16)
    leaves[0] = q.copy_(leaves[0].detach()).requires_grad_()
    assert_is_the_oracle(leaves, momentum=0.6, step_size=0.7)
    one = [x.detach()[:, :, 0] for x in (q, k, v)]
    out, _ = momentum_attention_step(*one, None, momentum=0.6, step_size=0.7, eps=0.0)
    torch.testing.assert_close(out, (0.7 * one[2].float()).half(), rtol=2e-3, atol=1e-3)


def test_the_shapes_of_these_tests_are_of_both_orders():
    sizes = {name: noncausal_launches.quadratic(*shape.values()) for name, shape in ORDERS.items()}
    assert sizes == {"quadratic": True, "linear": False}


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("order", ORDERS)
def test_it_is_the_recurrence(order, momentum):
    shape = ORDERS[order]
    assert_is_the_oracle(inputs(**shape), momentum=momentum, step_size=0.7, key_padding_mask=mask_of(shape["keys"], "left"))


@pytest.mark.parametrize("side", [None, "right", "both", "a whole row"])
@pytest.mark.parametrize("order", ORDERS)
def test_it_is_the_recurrence_for_any_mask(order, side):
    shape = ORDERS[order]
    assert_is_the_oracle(inputs(**shape), momentum=0.9, step_size=0.7, key_padding_mask=mask_of(shape["keys"], side))


@pytest.mark.parametrize(
    "queries, keys, dim, value_dim",
    [(1, 1, 8, 8), (1, 63, 8, 33), (65, 1, 33, 8), (3, 300, 8, 8), (9, 9, 139, 139), (5, 9, 1, 1)],
)
def test_it_is_the_recurrence_for_any_shape(queries, keys, dim, value_dim):
    leaves = inputs(queries, keys, dim, value_dim, heads=1)
    assert_is_the_oracle(leaves, momentum=0.6, step_size=1.0, key_padding_mask=mask_of(keys, "right"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", ORDERS)
def test_in_half_precision_it_is_as_exact_as_the_numbers_are(order, dtype):
    shape = ORDERS[order]
    leaves = inputs(**shape, dtype=dtype)
    assert_is_the_oracle(leaves, momentum=0.99, step_size=0.7, key_padding_mask=mask_of(shape["keys"], "left"))


@pytest.mark.parametrize("order", ORDERS)
def test_a_momentum_and_a_step_size_a_head_have_gradients(order):
    shape = ORDERS[order]
    beta, gamma = (torch.tensor(x, device=DEVICE, requires_grad=True) for x in ([0.3, 0.95], [0.5, 2.0]))
    mask = mask_of(shape["keys"], "left")
    assert_is_the_oracle(inputs(**shape, heads=2), momentum=beta, step_size=gamma, key_padding_mask=mask)


@pytest.mark.parametrize("order", ORDERS)
def test_the_feature_map_may_be_taken_on_the_way(order):
    shape = ORDERS[order]
    mask, leaves = mask_of(shape["keys"], "left"), inputs(**shape, mapped=False)
    options = dict(momentum=0.9, step_size=0.7, key_padding_mask=mask)
    ours = with_gradients(partial(momentum_attention, feature_map=elu_plus_one, **options), leaves)
    exact = with_gradients(lambda q, k, v: oracle(elu_plus_one(q), elu_plus_one(k), v, **options), doubled(leaves))
    assert_exact(ours, exact, LIMITS[torch.float32])


@pytest.mark.parametrize("programs", [1, 64])
def test_as_many_splits_as_fill_the_device_give_the_same(programs, monkeypatch):
    monkeypatch.setattr(noncausal_launches, "programs_to_fill", lambda _: programs)
    leaves = inputs(70, 200, 8, 8, heads=2)
    assert_is_the_oracle(leaves, momentum=0.9, step_size=0.7, key_padding_mask=mask_of(200, "both"))


def test_the_launches_of_ten_million_positions_fit_cudas_grid(monkeypatch):
    """Of which the first axis takes 2^31 − 1 programs, the others 65535; nothing is computed here."""
    grids = {}
    for name in ("read_states", "sum_states", "query_gradients", "key_gradients"):
        kernel = type("Kernel", (), {"__getitem__": lambda _, grid, name=name: lambda *_, **__: grids.setdefault(name, grid)})
        monkeypatch.setattr(noncausal_launches, name, kernel())
    leaves = [torch.empty(1, 2, 10**7, 1, dtype=torch.float16, device=DEVICE).requires_grad_() for _ in "qkv"]
    momentum_attention(*leaves, momentum=0.9, step_size=0.7).sum().backward()
    assert len(grids) == 4
    assert all(grid[0] < 2**31 and max(grid[1:], default=1) <= 65535 for grid in grids.values())


def test_values_wider_than_a_tile_are_read_in_columns(monkeypatch):
    monkeypatch.setattr(noncausal_launches, "STATE_TILE", 16 * 16)
    assert_is_the_oracle(inputs(**LINEAR | {"value_dim": 40}), momentum=0.9, step_size=0.7)


@pytest.mark.parametrize("attention", [linear_attention, partial(symmetric_momentum_attention, momentum=0.9, step_size=1)])
@pytest.mark.parametrize("order", ORDERS)
def test_other_weights_are_those_of_torch(order, attention, monkeypatch):
    shape = ORDERS[order]
    leaves, mask = inputs(**shape), mask_of(shape["keys"], "left")
    ours = with_gradients(lambda *x: attention(*x, key_padding_mask=mask), leaves)
    monkeypatch.setenv(VARIABLE, "torch")
    assert_exact(ours, with_gradients(lambda *x: attention(*x, key_padding_mask=mask), doubled(leaves)), LIMITS[torch.float32])


@pytest.mark.parametrize("order", ORDERS)
def test_inputs_of_any_strides_give_the_same(order):
    shape = ORDERS[order]
    q, k, v = (x.detach() for x in inputs(**shape, batch=1))
    options = dict(momentum=0.9, step_size=0.7)
    expected = momentum_attention(q, k, v, **options).expand(3, -1, -1, -1)
    views = [x.transpose(-1, -2).contiguous().transpose(-1, -2).expand(3, -1, -1, -1).requires_grad_() for x in (q, k, v)]
    out = momentum_attention(*views, **options)
    torch.testing.assert_close(out, expected)
    whole = [x.detach().contiguous().requires_grad_() for x in views]
    gradients = torch.autograd.grad(momentum_attention(*whole, **options), whole, torch.ones_like(expected).contiguous())
    torch.testing.assert_close(torch.autograd.grad(out.sum(), views), gradients)  # of an expanded gradient


def test_the_output_lies_as_the_projection_after_it_reads_it():
    out = momentum_attention(*inputs(**QUADRATIC), momentum=0.9, step_size=0.7)
    assert out.transpose(1, 2).is_contiguous()


def test_it_is_deterministic():
    leaves = inputs(70, 200, 8, 8)
    runs = [with_gradients(lambda *x: momentum_attention(*x, momentum=0.9, step_size=0.7), leaves) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_garbage_in_the_padding_goes_nowhere(order, garbage):
    shape = ORDERS[order]
    q, k, v = inputs(**shape)
    mask = mask_of(shape["keys"], "both")
    spoilt = [x.detach().masked_fill(mask[:, None, :, None], garbage).requires_grad_() for x in (k, v)]
    options = dict(momentum=0.9, step_size=1.0, key_padding_mask=mask)
    clean, ours = (with_gradients(lambda *x: momentum_attention(*x, **options), leaves) for leaves in ([q, k, v], [q, *spoilt]))
    assert all(torch.equal(a, b) for a, b in zip(clean, ours, strict=True))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_a_nan_among_real_numbers_comes_out_where_it_is_read(order, which):
    leaves = dict(zip("qkv", (x.detach() for x in inputs(**ORDERS[order], heads=2)), strict=True))
    leaves[which][1, 0, 2, 0] = math.nan
    out = momentum_attention(**leaves, momentum=0.9, step_size=1.0)
    touched = {"q": out[1, 0, 2], "k": out[1, 0], "v": out[1, 0, :, 0]}[which]
    assert touched.isnan().all()
    assert out[0].isfinite().all() and out[1, 1].isfinite().all()


@pytest.mark.parametrize("queries, keys, batch", [(0, 5, 2), (5, 0, 2), (5, 5, 0)])
def test_nothing_gives_nothing_and_no_keys_give_zeros(queries, keys, batch):
    leaves = inputs(queries, keys, 4, 3, batch=batch)
    out, *gradients = with_gradients(lambda *x: momentum_attention(*x, momentum=0.9, step_size=1.0), leaves)
    assert out.shape == (batch, 1, queries, 3)
    assert all(x.eq(0).all() for x in (out, *gradients))


def test_mapped_queries_and_keys_of_float32_go_with_values_of_half_precision():
    """So they come under automatic mixed precision."""
    q, k, v = inputs(**QUADRATIC)
    v = v.detach().to(torch.bfloat16).requires_grad_()
    out = momentum_attention(q, k, v, momentum=0.9, step_size=0.7)
    assert out.dtype == torch.bfloat16
    assert [x.dtype for x in torch.autograd.grad(out.sum(), [q, k, v])] == [torch.float32, torch.float32, torch.bfloat16]
    exact = oracle(*(x.double() for x in (q, k, v)), momentum=0.9, step_size=0.7)
    assert (out.double() - exact).norm() <= LIMITS[torch.bfloat16][0] * exact.norm()


def test_tensors_on_several_devices_are_refused():
    q, k, v = inputs(**QUADRATIC)
    with pytest.raises(ValueError, match="one device.* on meta"):
        momentum_attention(q, k.to("meta"), v, momentum=0.9, step_size=0.7)


def test_a_dimension_above_the_limit_is_refused_by_its_size():
    with pytest.raises(ValueError, match="D and M up to 256, got D = 257, M = 3"):
        momentum_attention(*inputs(2, 2, 257, 3), momentum=0.9, step_size=0.7)


def test_a_gradient_of_the_gradient_is_refused():
    q, k, v = inputs(**QUADRATIC)
    out = momentum_attention(q, k, v, momentum=0.9, step_size=0.7)
    (gradient,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="weighted_attention_backward"):
        gradient.sum().backward()


@pytest.mark.parametrize("order", ORDERS)
def test_the_ops_are_what_they_tell_torch_they_are(order):
    """Schema, fake form and autograd, as torch.compile relies on them."""
    shape = ORDERS[order]
    q, k, v = inputs(**shape)
    mask = mask_of(shape["keys"], "left")
    weights = draw(2, 1, shape["keys"], seed=4).requires_grad_()
    numbers = (shape["queries"], shape["keys"], 0.9, 0.7, 1e-6, True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    op = torch.ops.momentum_fairseq.weighted_attention
    torch.library.opcheck(op, (q, k, v, weights, mask, None, None, *numbers), test_utils=checks)


def test_torch_compile_traces_it_whole():
    leaves = inputs(**QUADRATIC)

    def attention(q, k, v):
        return 2 * momentum_attention(q, k, v, momentum=0.9, step_size=0.7)

    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    assert_exact(with_gradients(compiled, leaves), with_gradients(attention, leaves), (0, 0))
