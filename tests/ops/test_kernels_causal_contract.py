"""What else the causal kernels promise: any layout, the same bits, one graph, what padding, NaN and empty inputs do, refusals."""

import pytest
import torch

pytest.importorskip("triton")

from momentum_fairseq.ops import causal_linear_attention, causal_momentum_attention, recurrent_momentum_attention
from momentum_fairseq.ops.kernel_choice import VARIABLE
from tests.ops.causal_kernel_cases import LINEAR, inputs, mask_of
from tests.ops.kernel_cases import DEVICE, with_gradients

pytest_plugins = ["tests.ops.kernel_fixtures"]
pytestmark = pytest.mark.usefixtures("by_triton")


@pytest.mark.usefixtures("small_tiles")
def test_views_of_any_layout_give_the_same_bits():
    contiguous = [x.detach() for x in inputs(20, 8, 8, heads=2)]
    expected = causal_momentum_attention(*contiguous, momentum=0.6, step_size=0.7)
    by_token = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in contiguous]
    by_column = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in contiguous]
    for views in (by_token, by_column):
        assert torch.equal(causal_momentum_attention(*views, momentum=0.6, step_size=0.7), expected)
    one_row = [x[:1].expand(2, -1, -1, -1) for x in contiguous]
    assert torch.equal(causal_momentum_attention(*one_row, momentum=0.6, step_size=0.7)[1], expected[0])


@pytest.mark.usefixtures("small_tiles")
def test_the_same_call_gives_the_same_bits():
    leaves = inputs(20)
    first, second = (with_gradients(lambda *x: causal_momentum_attention(*x, momentum=0.9, step_size=1.0), leaves) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


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


@pytest.mark.usefixtures("small_tiles")
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
    q, k, v = (x.detach() for x in inputs(9))
    _, state = causal_momentum_attention(q, k, v, momentum=0.6, step_size=0.7, return_state=True)
    monkeypatch.setenv(VARIABLE, "reference")
    expected = recurrent_momentum_attention(q, k, v, momentum=0.6, step_size=0.7)
    assert torch.equal(causal_momentum_attention(q, k, v, momentum=0.6, step_size=0.7), expected)
    assert torch.equal(causal_linear_attention(q, k, v), recurrent_momentum_attention(q, k, v, **LINEAR))
    for options in ({"return_state": True}, {"initial_state": state}):
        with pytest.raises(ValueError, match="MOMENTUM_FAIRSEQ_KERNEL=reference: the reference takes and returns no state"):
            causal_momentum_attention(q, k, v, momentum=0.6, step_size=0.7, **options)
