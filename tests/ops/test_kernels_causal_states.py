"""The state that the causal kernels begin with and leave behind."""

import pytest
import torch

pytest.importorskip("triton")

from momentum_fairseq.ops import (
    LinearState,
    MomentumState,
    causal_linear_attention,
    causal_momentum_attention,
    recurrent_momentum_attention,
)
from momentum_fairseq.ops.kernel_choice import VARIABLE
from tests.ops.cases import relative_rms
from tests.ops.causal_kernel_cases import LINEAR, assert_exact, inputs, mask_of, split_into
from tests.ops.kernel_cases import DEVICE, draw

pytest_plugins = ["tests.ops.kernel_fixtures"]
pytestmark = pytest.mark.usefixtures("by_triton")


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("kind", "segments", "dims"),
    [
        ("momentum", 1, (8, 8)),
        ("momentum", 2, (8, 8)),
        ("momentum", 1, (33, 40)),  # two blocks of columns of either
        ("linear", 1, (8, 8)),
        ("learned", 1, (8, 8)),
        ("learned", 2, (8, 8)),
    ],
)
def test_pieces_with_a_state_between_are_the_recurrence_in_one_go(kind, segments, dims, monkeypatch):
    split_into(monkeypatch, segments)
    length, cuts = 50, (0, 17, 50)
    mask = mask_of(length, "inside")
    numbers = LINEAR if kind == "linear" else {"momentum": 0.9, "step_size": 0.7}
    leaves = inputs(length, *dims)
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


def test_a_state_of_any_strides_gives_the_same():
    q, k, v = (x.detach() for x in inputs(9))
    state = MomentumState(draw(2, 1, 8, 8, seed=4), draw(2, 1, 8, 8, seed=5), draw(2, 1, 8, seed=6).exp())
    views = MomentumState(*(x.transpose(0, -1).contiguous().transpose(0, -1) for x in state))
    numbers = {"momentum": 0.9, "step_size": 0.7}
    out, expected = (causal_momentum_attention(q, k, v, initial_state=x, **numbers) for x in (views, state))
    assert torch.equal(out, expected)


def test_the_state_is_that_of_equation_12():
    """Two keys by hand: m = −(β k₁v₁ + k₂v₂), s = γ((1 + β) k₁v₁ + k₂v₂), z = k₁ + k₂."""
    k, v = (torch.tensor(x, device=DEVICE).reshape(1, 1, 2, 1) for x in ([2.0, 3.0], [5.0, 7.0]))
    _, state = causal_momentum_attention(k, k, v, momentum=0.5, step_size=2.0, return_state=True)
    assert [x.item() for x in state] == [2 * (1.5 * 10 + 21), -(0.5 * 10 + 21), 5]


@pytest.mark.usefixtures("small_tiles")
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
