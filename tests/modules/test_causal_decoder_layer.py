"""The causal decoder layer: the order of its parts, its chains of velocity, its steps, and its form without a source."""

import pytest
import torch
from torch import Tensor

from momentum_fairseq.modules import (
    ATTENTION_KINDS,
    AttentionOptions,
    CausalDecoderLayer,
    ConnectionOptions,
    LayerOptions,
)
from momentum_fairseq.modules.causal_attention import has_causal_form
from momentum_fairseq.modules.causal_decoder_layer import needed_causal_mask
from momentum_fairseq.modules.transformer_layer import Velocities
from tests.pairs import pairs

CAUSAL_KINDS = sorted(name for name, kind in ATTENTION_KINDS.items() if has_causal_form(kind))
ALL = pairs(CAUSAL_KINDS)


def build(attention: str = "momentum", connection: str = "momentum", *, cross_attention=True, **values) -> CausalDecoderLayer:
    torch.manual_seed(1)
    kinds = {"attention": AttentionOptions(kind=attention), "connection": ConnectionOptions(kind=connection)}
    sizes = {"embed_dim": 12, "ffn_dim": 16, "num_heads": 2, "dropout": 0.0, "feed_forward": "residual"}
    layer = CausalDecoderLayer(LayerOptions(**{**sizes, **kinds, **values}), cross_attention=cross_attention).double().eval()
    for parameter in layer.parameters():  # biases and norms that do something
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    return layer


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("chain", ["shared", "separate"])
@pytest.mark.parametrize("normalize_before", [False, True])
def test_it_is_self_attention_cross_attention_and_feed_forward(chain, normalize_before):
    """A chain carries its velocity from the layer before."""
    layer = build(chain=chain, normalize_before=normalize_before)
    x, source, velocities = normal(2, 5, 12), normal(2, 4, 12), Velocities()
    out = layer(layer(x, None, source, None, velocities), None, source, None, velocities)
    u = {"self": 0.0, "cross": 0.0, "shared": 0.0}
    y = x
    for _ in range(2):
        for name, attn, norm in (
            ("self", lambda y: layer.self_attn(y), layer.self_attn_layer_norm),
            ("cross", lambda y: layer.encoder_attn(y, source, source), layer.encoder_attn_layer_norm),
        ):
            key = name if chain == "separate" else "shared"
            u[key] = 0.3 * u[key] + attn(norm(y) if normalize_before else y)
            y = y + 0.9 * u[key]
            y = y if normalize_before else norm(y)
        y = layer.feed_forward(y)
    torch.testing.assert_close(out, y, rtol=1e-11, atol=1e-12)
    assert set(velocities) == ({"self", "cross"} if chain == "separate" else {"shared"})


@pytest.mark.parametrize("chain", ["shared", "separate"])
@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_steps_through_two_layers_give_what_whole_sentences_give(attention, connection, chain):
    layer = build(attention, connection, chain=chain)
    x, source = normal(3, 6, 12), normal(3, 4, 12)
    source_padding = torch.tensor([[True, True, False, False], [False] * 4, [False, False, False, True]])
    velocities = Velocities()
    whole = layer(layer(x, None, source, source_padding, velocities), None, source, source_padding, velocities)
    states = [layer.start(source, source_padding) for _ in range(2)]
    for i in range(6):
        y, velocities = x[:, i : i + 1], Velocities()
        for number in range(2):
            y, states[number] = layer.step(y, None, states[number], velocities)
        torch.testing.assert_close(y, whole[:, i : i + 1], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("same_source", [False, True])
def test_a_reordered_state_is_that_of_the_other_rows(same_source):
    layer = build()
    source = normal(3, 4, 12)
    source = source[:1].repeat(3, 1, 1) if same_source else source
    x, order = normal(3, 2, 12), torch.tensor([2, 0, 1])
    _, state = layer.step(x[:, :1], None, layer.start(source, None), Velocities())
    reordered = state.reorder(order, same_source=same_source)
    assert (reordered.source is state.source) == same_source
    out, _ = layer.step(x[order, 1:], None, reordered, Velocities())
    expected = layer(x, None, source, None, Velocities())[order, 1:]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("attention", CAUSAL_KINDS)
def test_a_layer_without_a_source_has_no_weights_for_one_and_steps_as_it_reads(attention):
    layer, x = build(attention, cross_attention=False), normal(2, 5, 12)
    assert not any("encoder" in name for name, _ in layer.named_parameters())
    whole, state, steps = layer(x, None, None, None, Velocities()), layer.start(None, None), []
    for i in range(5):
        y, state = layer.step(x[:, i : i + 1], None, state, Velocities())
        steps.append(y)
        state = state.reorder(torch.arange(2), same_source=False)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_gradients_are_finite_and_reach_every_parameter(attention, connection):
    layer, velocities = build(attention, connection), Velocities()
    padding = torch.tensor([[True, True, False, False, False], [False] * 5, [True] * 5])
    x, source = normal(3, 5, 12), normal(3, 4, 12)
    out = layer(layer(x, padding, source, padding[:, :4], velocities), padding, source, padding[:, :4], velocities)
    (out * normal(3, 5, 12)).masked_fill(padding.unsqueeze(-1), 0).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), name
        unused = attention == "softmax" and name.endswith("k_proj.bias")  # softmax doesn't see a shift of all keys
        assert unused or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("rows", "needed"),
    [
        (["....", "...."], False),
        (["..__", "...."], False),
        (["____", "._.."], True),
        (["__..", "...."], True),
        (["____", "...."], False),
    ],
)
def test_a_causal_mask_is_needed_where_a_real_token_follows_padding(rows, needed):
    mask = torch.tensor([[token == "_" for token in row] for row in rows])
    assert needed_causal_mask(mask) is (mask if needed else None)
