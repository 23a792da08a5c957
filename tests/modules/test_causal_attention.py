"""Causal self-attention of every kind: all positions at once, and step by step."""

import pytest
import torch

from momentum_fairseq.modules import ATTENTION_KINDS, AttentionOptions, CausalSelfAttention, MultiheadAttention
from momentum_fairseq.modules.attention_kind import AttentionKind
from momentum_fairseq.modules.causal_attention import has_causal_form
from momentum_fairseq.modules.momentum_kind import MomentumAttention
from momentum_fairseq.ops import FEATURE_MAPS, recurrent_momentum_attention

CAUSAL_KINDS = sorted(name for name, kind in ATTENTION_KINDS.items() if has_causal_form(kind))
VARIANTS = [{"kind": kind} for kind in CAUSAL_KINDS]
VARIANTS += [{"kind": "momentum", "momentum_learned": True}, {"kind": "momentum", "feature_map": "taylor"}]


def attention(kind: str, dim: int = 12, heads: int = 2, **options) -> CausalSelfAttention:
    torch.manual_seed(1)
    return CausalSelfAttention(dim, heads, AttentionOptions(kind=kind, **options)).double().eval()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def by_steps(module: CausalSelfAttention, x: torch.Tensor, mask: torch.Tensor | None, sizes: list[int]) -> torch.Tensor:
    """The output of x in pieces of these sizes."""
    state, outputs, at = None, [], 0
    for size in sizes:
        piece = None if mask is None else mask[:, at : at + size]
        piece = None if piece is None or not piece.any() else piece
        out, state = module.step(x[:, at : at + size], piece, state)
        outputs.append(out)
        at += size
    return torch.cat(outputs, dim=1)


def test_the_kinds_of_the_paper_have_a_causal_form():
    assert {"linear", "momentum", "softmax"} <= set(CAUSAL_KINDS)


def test_a_kind_without_a_causal_form_is_refused_with_those_that_have_one(monkeypatch):
    class Blurred(AttentionKind):
        def __init__(self, num_heads: int, options: AttentionOptions) -> None:
            super().__init__()

    monkeypatch.setitem(ATTENTION_KINDS, "blurred", Blurred)
    MultiheadAttention(12, 2, AttentionOptions(kind="blurred"))
    with pytest.raises(ValueError, match="blurred attention has no causal form; choose from .*linear, momentum"):
        attention("blurred")


@pytest.mark.parametrize("options", VARIANTS)
def test_a_position_reads_itself_and_those_before_it(options):
    module, x = attention(**options), normal(2, 9, 12)
    out = module(x)
    later, earlier = x.clone(), x.clone()
    later[:, 5:] += normal(2, 4, 12)
    earlier[:, 3] += normal(2, 12)
    torch.testing.assert_close(module(later)[:, :5], out[:, :5], rtol=1e-12, atol=1e-13)
    changed = (module(earlier) - out).abs().amax(dim=(0, 2))
    assert (changed[:3] < 1e-12).all() and (changed[3:] > 1e-4).all()


@pytest.mark.parametrize("kind", ["linear", "momentum"])
def test_it_is_the_recurrence(kind):
    module, x = attention(kind, momentum=0.9), normal(2, 9, 12)
    q, k = (FEATURE_MAPS["elu"](project(x)) for project in (module.project_query, module.project_key))
    numbers = dict(momentum=0.9, step_size=0.6) if kind == "momentum" else dict(momentum=0.0, step_size=1.0)
    rows = recurrent_momentum_attention(q, k, module.project_value(x), causal=True, **numbers)
    expected = module.out_proj(rows.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("sizes", [[1] * 9, [9], [4, 1, 1, 3]])
@pytest.mark.parametrize("side", [None, "left", "right", "both"])
@pytest.mark.parametrize("options", VARIANTS)
def test_steps_give_what_all_positions_at_once_give(options, side, sizes, gradients):
    module, x = attention(**options), normal(3, 9, 12)
    mask = torch.zeros(3, 9, dtype=torch.bool)
    if side in ("left", "both"):
        mask[0, :3] = True
    if side in ("right", "both"):
        mask[0, 7:] = mask[1, 4:] = True
    with torch.set_grad_enabled(gradients):
        expected = module(x, mask if side else None)
        torch.testing.assert_close(by_steps(module, x, mask, sizes), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("options", VARIANTS)
def test_padding_before_a_sentence_and_batch_mates_change_nothing(options):
    module, x = attention(**options), normal(1, 5, 12)
    batch, mask = 9 * normal(2, 9, 12), torch.zeros(2, 9, dtype=torch.bool)
    batch[:1, 2:7], mask[0, :2], mask[0, 7:] = x, True, True
    torch.testing.assert_close(module(batch, mask)[:1, 2:7], module(x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("options", VARIANTS)
def test_a_reordered_state_is_that_of_the_other_rows(options):
    module, x = attention(**options), normal(3, 5, 12)
    order = torch.tensor([2, 0, 0, 1])
    _, state = module.step(x[:, :4], None, None)
    out, _ = module.step(x[order, 4:], None, state.reorder(order))
    torch.testing.assert_close(out, module(x)[order, 4:], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_the_state_of_linear_and_momentum_attention_does_not_grow(kind):
    module, x, state, sizes = attention(kind), normal(1, 200, 12), None, []
    for i in range(200):
        _, state = module.step(x[:, i : i + 1], None, state)
        sizes.append(sum(y.numel() for y in state if isinstance(y, torch.Tensor)))
    assert (len(set(sizes)) == 1) == (kind != "softmax")


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "momentum"])
def test_the_state_stays_in_float32_under_half_precision(kind, dtype, gradients):
    module = attention(kind).to(dtype)
    with torch.set_grad_enabled(gradients):
        out, state = module.step(normal(2, 1, 12).to(dtype), None, None)
        out, state = module.step(normal(2, 1, 12).to(dtype), None, state)
    assert out.dtype == dtype
    assert all(x.dtype == torch.float32 for x in state)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_half_precision_comes_out_as_it_goes_in(kind, dtype):
    module, x = attention(kind).to(dtype), normal(2, 5, 12).to(dtype)
    expected = attention(kind)(x.double())
    for out in (module(x), by_steps(module, x, None, [2, 1, 2])):
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.05)


def test_learned_momentum_is_used_by_every_form():
    module, x = attention("momentum", momentum_learned=True), normal(2, 6, 12)
    before = module(x)
    with torch.no_grad():
        module.attention.momentum_logit += 2
    after = module(x)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(by_steps(module, x, None, [1] * 6), after, rtol=1e-10, atol=1e-11)
    after.square().sum().backward()
    assert isinstance(module.attention, MomentumAttention)
    assert all((parameter.grad != 0).all() for parameter in module.attention.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("source_length", [3, 40])
@pytest.mark.parametrize("options", VARIANTS)
def test_recalling_a_remembered_source_is_attending_to_it(options, source_length, side):
    torch.manual_seed(1)
    module = MultiheadAttention(12, 2, AttentionOptions(**options)).double()
    source, mask = normal(2, source_length, 12), torch.zeros(2, source_length, dtype=torch.bool)
    if side == "left":
        mask[0, : source_length // 2] = True
    else:
        mask[0, -(source_length // 2) :] = True
    memory = module.remember(source, mask)
    for queries in (1, 4):
        query = normal(2, queries, 12)
        expected = module(query, source, source, mask)
        torch.testing.assert_close(module.recall(query, memory), expected, rtol=1e-10, atol=1e-11)
