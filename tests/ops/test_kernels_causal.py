"""The causal Triton kernels against the float64 oracle: natively where there is a GPU, else in Triton's interpreter."""

from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from momentum_fairseq.ops import (
    LinearState,
    MomentumState,
    causal_linear_attention,
    causal_momentum_attention,
    elu_plus_one,
    recurrent_momentum_attention,
)
from momentum_fairseq.ops.feature_maps import squared_relu
from momentum_fairseq.ops.kernel_choice import VARIABLE
from momentum_fairseq.ops.kernels import causal_setting
from momentum_fairseq.ops.kernels.causal_setting import Tile
from tests.ops.cases import padding_mask

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LINEAR = {"momentum": 0.0, "step_size": 1.0}  # of the recurrence
# Relative RMS against float64, of the output and of gradients.
LIMITS = {torch.float32: (5e-7, 2e-6), torch.bfloat16: (4e-3, 1.5e-2), torch.float16: (1e-3, 2e-3)}


@pytest.fixture(autouse=True)
def _triton(monkeypatch):
    monkeypatch.setenv(VARIABLE, "triton")


@pytest.fixture
def _small_tiles(monkeypatch):
    """Several chunks and blocks of columns in a short sequence."""
    monkeypatch.setattr(causal_setting, "tile_of", lambda *_: Tile(16, 32, 4, 1))


def split_into(monkeypatch, segments):
    monkeypatch.setattr(causal_setting, "number_of_segments", lambda *_: segments)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def inputs(length, dim=8, value_dim=8, *, batch=2, heads=1, dtype=torch.float32, mapped=True):
    """q, k and v, leaves that take a gradient; positive q and k, unless not yet `mapped`."""
    q, k = (draw(batch, heads, length, dim, seed=seed) for seed in (1, 2))
    if mapped:
        q, k = elu_plus_one(q), elu_plus_one(k)
    return [x.to(dtype).requires_grad_() for x in (q, k, draw(batch, heads, length, value_dim, seed=3))]


def mask_of(length, side, batch=2):
    if side is None:
        return None
    if side == "inside":
        mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(5)) < 0.4
        mask[0] = False
        return mask.to(DEVICE)
    return padding_mask(batch, length, side).to(DEVICE)


def relative_rms(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


def with_gradients(function, leaves):
    out = function(*leaves)
    direction = draw(*out.shape, seed=9, dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, direction.to(out.dtype))]


def assert_exact(ours, exact, leaves):
    """`ours` of the leaves is `exact` of them in float64, values and all gradients, each in its own dtype."""
    mine = with_gradients(ours, leaves)
    expected = with_gradients(exact, [x.detach().double().requires_grad_() for x in leaves])
    limits = LIMITS[leaves[0].dtype]
    for name, a, b, leaf in zip(["out", *"qkvbg"], mine, expected, [leaves[2], *leaves], strict=False):
        assert a.dtype == leaf.dtype
        assert relative_rms(a, b) <= limits[name != "out"], f"{name}: {relative_rms(a, b)}"


def assert_is_the_recurrence(leaves, mask, **numbers):
    numbers = {**numbers, "key_padding_mask": mask}
    assert_exact(
        lambda *x: causal_momentum_attention(*x, **numbers), lambda *x: recurrent_momentum_attention(*x, **numbers), leaves
    )


@pytest.mark.usefixtures("_small_tiles")
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
@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(("momentum", "side"), [(0.1, "left"), (0.6, "right"), (0.999, "inside")])
def test_it_is_the_recurrence_for_every_mask_in_segments(momentum, side, monkeypatch):
    split_into(monkeypatch, 2)
    assert_is_the_recurrence(inputs(70), mask_of(70, side), momentum=momentum, step_size=0.7)


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(("dtype", "momentum"), [(torch.bfloat16, 0.999), (torch.float16, 0.9)])
def test_half_precision_loses_what_rounding_loses(dtype, momentum):
    assert_is_the_recurrence(inputs(40, 16, 16, dtype=dtype), mask_of(40, "left"), momentum=momentum, step_size=0.7)


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(("length", "side", "segments"), [(33, "inside", 1), (33, None, 2)])
def test_without_momentum_it_is_linear_attention(length, side, segments, monkeypatch):
    split_into(monkeypatch, segments)
    mask = mask_of(length, side)
    assert_exact(
        lambda *x: causal_linear_attention(*x, key_padding_mask=mask),
        lambda *x: recurrent_momentum_attention(*x, key_padding_mask=mask, **LINEAR),
        inputs(length),
    )


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(("momentum", "step_size"), [([0.0, 0.999], [0.5, 2.0]), (0.6, [0.7, 1.5]), ([0.3, 0.9], 0.7)])
def test_numbers_of_each_head_take_gradients(momentum, step_size):
    numbers = [torch.tensor(x, device=DEVICE, requires_grad=True) if isinstance(x, list) else x for x in (momentum, step_size)]
    mask, learned = mask_of(33, "inside", batch=1), [x for x in numbers if isinstance(x, torch.Tensor)]

    def attention(of):
        def function(q, k, v, *given):
            rest = list(given)
            beta, gamma = (rest.pop(0) if isinstance(x, torch.Tensor) else x for x in numbers)
            return of(q, k, v, momentum=beta, step_size=gamma, key_padding_mask=mask)

        return function

    leaves = [*inputs(33, batch=1, heads=2), *learned]
    assert_exact(attention(causal_momentum_attention), attention(recurrent_momentum_attention), leaves)


@pytest.mark.usefixtures("_small_tiles")
def test_one_learned_number_serves_all_heads():
    leaves = [*inputs(17, batch=1, heads=2), *(torch.tensor(x, device=DEVICE, requires_grad=True) for x in (0.5, 2.0))]
    assert_exact(
        lambda q, k, v, b, g: causal_momentum_attention(q, k, v, momentum=b, step_size=g),
        lambda q, k, v, b, g: recurrent_momentum_attention(q, k, v, momentum=b, step_size=g),
        leaves,
    )


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(("kind", "segments"), [("momentum", 1), ("momentum", 2), ("linear", 1), ("learned", 1)])
def test_pieces_with_a_state_between_are_the_recurrence_in_one_go(kind, segments, monkeypatch):
    split_into(monkeypatch, segments)
    length, cuts = 50, (0, 17, 50)
    mask = mask_of(length, "inside")
    numbers = LINEAR if kind == "linear" else {"momentum": 0.9, "step_size": 0.7}
    leaves = inputs(length)
    if kind == "learned":
        leaves += [torch.tensor([x], device=DEVICE, requires_grad=True) for x in (0.9, 0.7)]

    def pieces(q, k, v, *learned):
        state, outs = None, []
        given = dict(zip(("momentum", "step_size"), learned, strict=True)) if learned else numbers
        for start, end in zip(cuts[:-1], cuts[1:], strict=True):
            piece = [x[:, :, start:end] for x in (q, k, v)]
            options = {"key_padding_mask": mask[:, start:end], "initial_state": state, "return_state": True}
            attention = causal_linear_attention if kind == "linear" else causal_momentum_attention
            out, state = attention(*piece, **options, **({} if kind == "linear" else given))
            assert isinstance(state, LinearState if kind == "linear" else MomentumState)
            outs.append(out)
        return torch.cat(outs, dim=2)

    def whole(q, k, v, *learned):
        given = dict(zip(("momentum", "step_size"), learned, strict=True)) if learned else numbers
        return recurrent_momentum_attention(q, k, v, key_padding_mask=mask, **given)

    assert_exact(pieces, whole, leaves)


def test_the_state_is_that_of_equation_12():
    """Two keys by hand: m = −(β k₁v₁ + k₂v₂), s = γ((1 + β) k₁v₁ + k₂v₂), z = k₁ + k₂."""
    k, v = (torch.tensor(x, device=DEVICE).reshape(1, 1, 2, 1) for x in ([2.0, 3.0], [5.0, 7.0]))
    _, state = causal_momentum_attention(k, k, v, momentum=0.5, step_size=2.0, return_state=True)
    assert [x.item() for x in state] == [2 * (1.5 * 10 + 21), -(0.5 * 10 + 21), 5]


@pytest.mark.usefixtures("_small_tiles")
def test_gradients_of_the_state_alone_reach_keys_values_and_numbers():
    _, k, v = inputs(33)
    beta, gamma = (torch.tensor([x], device=DEVICE, requires_grad=True) for x in (0.8, 0.7))

    def state_by(attention, dtype):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (k, v, beta, gamma)]
        _, state = attention(leaves[0], *leaves[:2], momentum=leaves[2], step_size=leaves[3], return_state=True)
        return [*state, *torch.autograd.grad(sum(draw(*x.shape).to(x.dtype).mul(x).sum() for x in state), leaves)]

    ours = state_by(causal_momentum_attention, torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "torch")
        exact = state_by(causal_momentum_attention, torch.float64)
    assert all(relative_rms(a, b) <= 1e-6 for a, b in zip(ours, exact, strict=True))


@pytest.mark.usefixtures("_small_tiles")
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


@pytest.mark.usefixtures("_small_tiles")
def test_views_of_any_layout_give_the_same_bits():
    contiguous = [x.detach() for x in inputs(20, 8, 8, heads=2)]
    expected = causal_momentum_attention(*contiguous, momentum=0.6, step_size=0.7)
    by_token = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in contiguous]
    by_column = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in contiguous]
    for views in (by_token, by_column):
        assert torch.equal(causal_momentum_attention(*views, momentum=0.6, step_size=0.7), expected)
    one_row = [x[:1].expand(2, -1, -1, -1) for x in contiguous]
    assert torch.equal(causal_momentum_attention(*one_row, momentum=0.6, step_size=0.7)[1], expected[0])


@pytest.mark.usefixtures("_small_tiles")
def test_the_same_call_gives_the_same_bits():
    leaves = inputs(20)
    first, second = (with_gradients(lambda *x: causal_momentum_attention(*x, momentum=0.9, step_size=1.0), leaves) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_values_of_another_dtype_are_summed_in_float32():
    q, k, v = (x.detach() for x in inputs(17))
    out = causal_momentum_attention(q, k, v.bfloat16(), momentum=0.6, step_size=1.0)
    exact = recurrent_momentum_attention(q, k, v.bfloat16().float(), momentum=0.6, step_size=1.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), rtol=2**-7, atol=1e-6)


def test_autocast_changes_nothing():
    leaves = inputs(17)
    expected = with_gradients(lambda *x: causal_momentum_attention(*x, momentum=0.9, step_size=1.0), leaves)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        ours = with_gradients(lambda *x: causal_momentum_attention(*x, momentum=0.9, step_size=1.0), leaves)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("kind", ["momentum", "linear"])
def test_it_compiles_into_one_graph(kind):
    leaves = inputs(17)

    def attention(q, k, v):
        if kind == "linear":
            return causal_linear_attention(q, k, v)
        return causal_momentum_attention(q, k, v, momentum=0.9, step_size=1.0)

    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    pairs = zip(with_gradients(compiled, leaves), with_gradients(attention, leaves), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_torch_finds_no_fault_in_the_operation():
    q, k, v = inputs(17)
    beta, gamma = (torch.tensor([x], device=DEVICE, requires_grad=True) for x in (0.9, 0.7))
    arguments = (q, k, v, beta, gamma, 0.0, 1.0, False, mask_of(17, "left"), None, 17, None, None, None, 1e-6, True, False)
    torch.library.opcheck(torch.ops.momentum_fairseq.causal_attention.default, arguments)


def test_what_padding_holds_changes_nothing():
    mask = mask_of(20, "both")
    q, k, v = inputs(20)

    def run(fill):
        leaves = [q, *(torch.where(mask[:, None, :, None], fill, x.detach()).requires_grad_() for x in (k, v))]
        numbers = {"momentum": 0.9, "step_size": 1.0, "key_padding_mask": mask}
        return with_gradients(lambda *x: causal_momentum_attention(*x, **numbers), leaves)

    plain, odd = run(1.0), run(float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(plain, odd, strict=True))
    assert all((x[mask[:, None].expand(-1, x.shape[1], -1)] == 0).all() for x in plain[2:])


def test_a_row_before_which_all_is_padding_is_zero_and_has_no_gradient():
    q, k, v = inputs(20)
    mask = torch.arange(20, device=DEVICE).expand(2, -1) < 7
    out, dq, *_ = with_gradients(
        lambda *x: causal_momentum_attention(*x, momentum=0.9, step_size=1.0, key_padding_mask=mask), [q, k, v]
    )
    assert (out[:, :, :7] == 0).all()
    assert (dq[:, :, :7] == 0).all()


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_comes_through_to_later_rows_and_to_no_earlier_chunk(which):
    tensors = [x.detach().clone() for x in inputs(40)]
    tensors[which][1, 0, 20, 3] = float("nan")
    out = causal_momentum_attention(*tensors, momentum=0.9, step_size=1.0)
    assert out[0].isfinite().all()
    assert out[1, 0, :16].isfinite().all()
    assert out[1, 0, 20].isnan().any()
    assert which == 0 or out[1, 0, 21:].isnan().any(-1).all()


@pytest.mark.parametrize("shape", [(0, 1, 5, 8), (2, 0, 5, 8), (2, 1, 0, 8)])
def test_empty_inputs_give_empty_outputs_and_states(shape):
    x = torch.zeros(shape, device=DEVICE, requires_grad=True)
    out, state = causal_momentum_attention(x, x, x, momentum=0.5, step_size=1.0, return_state=True)
    assert out.shape == x.shape
    assert [y.shape for y in state] == [(*shape[:2], shape[3], shape[3])] * 2 + [(*shape[:2], shape[3])]
    (out.sum() + state.s.sum()).backward()


def test_what_the_kernels_cannot_take_is_refused_by_its_value():
    x = torch.ones(1, 1, 2, 257, device=DEVICE)
    with pytest.raises(ValueError, match="D and M up to 256, got D = 257"):
        causal_momentum_attention(x, x, x, momentum=0.5, step_size=1.0)
    y = x[..., :8]
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        causal_momentum_attention(y, y, y, momentum=1.0, step_size=1.0)
    with pytest.raises(ValueError, match="step_size must be positive and finite, got 0"):
        causal_momentum_attention(y, y, y, momentum=0.5, step_size=0)
    with pytest.raises(ValueError, match=f"one device; got q on {y.device}, k on meta"):
        causal_momentum_attention(y, y.to("meta"), y, momentum=0.5, step_size=1.0)
    with pytest.raises(ValueError, match="float32, bfloat16 and float16, got q torch.float64"):
        causal_linear_attention(*[y.double()] * 3)


def test_the_reference_can_be_chosen_and_refuses_states(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    q, k, v = (x.detach() for x in inputs(9))
    expected = recurrent_momentum_attention(q, k, v, momentum=0.6, step_size=0.7)
    assert torch.equal(causal_momentum_attention(q, k, v, momentum=0.6, step_size=0.7), expected)
    assert torch.equal(causal_linear_attention(q, k, v), recurrent_momentum_attention(q, k, v, **LINEAR))
    with pytest.raises(ValueError, match="MOMENTUM_FAIRSEQ_KERNEL=reference: the reference takes and returns no state"):
        causal_momentum_attention(q, k, v, momentum=0.6, step_size=0.7, return_state=True)
