"""Encoder and decoder layers: the order of their parts, norms, chains of velocity, padding."""

import pytest
import torch
from torch import Tensor

from momentum_fairseq.modules import (
    ATTENTION_KINDS,
    CONNECTIONS,
    AttentionOptions,
    ConnectionOptions,
    DecoderLayer,
    EncoderLayer,
    LayerOptions,
)
from momentum_fairseq.modules.transformer_layer import Velocities
from momentum_fairseq.ops import ProjectedSource, WeightedSource
from tests.pairs import pairs

ALL = pairs(ATTENTION_KINDS)


def options(attention: str = "momentum", connection: str = "momentum", **values) -> LayerOptions:
    kinds = {"attention": AttentionOptions(kind=attention), "connection": ConnectionOptions(kind=connection)}
    return LayerOptions(**{"embed_dim": 12, "ffn_dim": 16, "num_heads": 2, "dropout": 0.0, **kinds, **values})


def build(layer: type, *arguments, **values):
    torch.manual_seed(1)
    module = layer(options(*arguments, **values)).double().eval()
    for parameter in module.parameters():  # biases and norms that do something
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    return module


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def decode(layer: DecoderLayer, x: Tensor, source: Tensor, padding=None, source_padding=None, velocities=None) -> Tensor:
    torch.manual_seed(2)
    positions = normal(1, 30, 12)[:, : x.shape[1]]
    memory = layer.memory(source, source_padding, positions, padding)
    return layer(x, padding, memory, Velocities() if velocities is None else velocities)


def test_an_unknown_chain_or_feed_forward_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="unknown connection chain 'none'; choose from shared, separate"):
        options(chain="none")
    with pytest.raises(ValueError, match="unknown feed-forward 'wide'; choose from highway, residual"):
        EncoderLayer(options(feed_forward="wide"))


def test_an_encoder_layer_with_the_norm_after_is_its_formula():
    layer = build(EncoderLayer)
    x, velocity = normal(2, 5, 12), normal(2, 5, 12)
    velocities = Velocities()
    velocities["shared"] = layer.connection(x, velocity, None)[1]
    a = layer.self_attn(x, x, x)
    expected = layer.feed_forward(layer.self_attn_layer_norm(x + 0.9 * (0.3 * velocity + a)))
    torch.testing.assert_close(layer(x, None, velocities), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(velocities["shared"].velocity, 0.3 * velocity + a, rtol=1e-12, atol=1e-13)


def test_an_encoder_layer_with_the_norm_before_is_its_formula():
    layer = build(EncoderLayer, normalize_before=True)
    x = normal(2, 5, 12)
    y = layer.self_attn_layer_norm(x)
    expected = layer.feed_forward(x + 0.9 * layer.self_attn(y, y, y))
    torch.testing.assert_close(layer(x, None, {}), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("chain", ["shared", "separate"])
def test_a_decoder_layer_is_self_positional_and_cross_attention_then_feed_forward(chain):
    """Positional attention has Q = K = the positions and V = x; a chain carries its velocity from the layer before."""
    layer = build(DecoderLayer, chain=chain)
    x, source, positions = normal(2, 5, 12), normal(2, 4, 12), normal(1, 5, 12)
    memory, velocities = layer.memory(source, None, positions, None), Velocities()
    out = layer(layer(x, None, memory, velocities), None, memory, velocities)
    rows = positions.expand(2, -1, -1)
    u = {"self": 0.0, "positional": 0.0, "cross": 0.0, "shared": 0.0}
    y = x
    for _ in range(2):
        for name, attn, norm in (
            ("self", lambda y: layer.self_attn(y, y, y), layer.self_attn_layer_norm),
            ("positional", lambda y: layer.positional_attn(rows, rows, y), layer.positional_attn_layer_norm),
            ("cross", lambda y: layer.encoder_attn(y, source, source), layer.encoder_attn_layer_norm),
        ):
            key = name if chain == "separate" else "shared"
            u[key] = 0.3 * u[key] + attn(y)
            y = norm(y + 0.9 * u[key])
        y = layer.feed_forward(y)
    torch.testing.assert_close(out, y, rtol=1e-11, atol=1e-12)
    assert set(velocities) == ({"self", "positional", "cross"} if chain == "separate" else {"shared"})


def test_momenta_are_those_of_the_sub_layers_since_they_were_last_taken():
    layer, x, velocities = build(EncoderLayer, connection="adaptive"), normal(2, 5, 12), Velocities()
    layer(x, None, velocities)
    assert velocities.take_momenta() == []  # the first sub-layer of a chain has none
    layer(layer(x, None, velocities), None, velocities)
    assert [momentum.shape for momentum in velocities.take_momenta()] == 2 * [(2, 5, 1)]
    assert velocities.take_momenta() == []


def test_a_shared_and_a_separate_chain_differ():
    x, source = normal(2, 5, 12), normal(2, 4, 12)
    shared, separate = (decode(build(DecoderLayer, chain=chain), x, source) for chain in ("shared", "separate"))
    assert (shared - separate).abs().max() > 1e-2


@pytest.mark.parametrize(("attention", "connection"), ALL)
@pytest.mark.parametrize("normalize_before", [False, True])
def test_gradients_are_finite_and_reach_every_parameter(attention, connection, normalize_before):
    encoder, decoder = (
        build(layer, attention, connection, normalize_before=normalize_before) for layer in (EncoderLayer, DecoderLayer)
    )
    source_padding = torch.tensor([[True, True, False, False], [False] * 4])
    padding = torch.tensor([[False, False, True], [False] * 3])
    source = encoder(normal(2, 4, 12), source_padding, {})
    out = decode(decoder, normal(2, 3, 12), source, padding, source_padding)
    (out * normal(2, 3, 12)).masked_fill(padding.unsqueeze(-1), 0).sum().backward()
    for module in (encoder, decoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad.isfinite().all(), name
            unused = attention == "softmax" and name.endswith("k_proj.bias")  # softmax doesn't see a shift of all keys
            assert unused or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("connection", sorted(CONNECTIONS))
def test_gradients_are_finite_at_zeros_identical_tokens_and_a_row_of_padding(connection, dtype):
    encoder, decoder = (build(layer, "momentum", connection).to(dtype) for layer in (EncoderLayer, DecoderLayer))
    x = torch.zeros(3, 4, 12, dtype=dtype)
    x[1] = torch.randn(12, dtype=dtype)
    x.requires_grad_()
    padding = torch.tensor([[False] * 4, [False] * 4, [True] * 4])
    velocities = Velocities()
    y = encoder(encoder(x, padding, velocities), padding, velocities)
    memory = decoder.memory(y, padding, torch.zeros(1, 4, 12, dtype=dtype), padding)
    velocities = Velocities()
    out = decoder(decoder(x, padding, memory, velocities), padding, memory, velocities)
    assert out.isfinite().all()
    out.sum().backward()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    assert all(tensor.grad.isfinite().all() for tensor in (x, *parameters))


def check_encoder_padding(attention: str, connection: str, left: int) -> None:
    """5 tokens among 4 of padding, beside a full sentence, through two layers, give what they give alone."""
    layer = build(EncoderLayer, attention, connection)
    x, padding = 3 * normal(2, 9, 12), torch.zeros(2, 9, dtype=torch.bool)
    padding[0, :left] = padding[0, left + 5 :] = True
    batch, alone = Velocities(), Velocities()
    out = layer(layer(x, padding, batch), padding, batch)
    sentence = x[:1, left : left + 5]
    expected = layer(layer(sentence, None, alone), None, alone)
    torch.testing.assert_close(out[:1, left : left + 5], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("left", [0, 2, 4])
@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_padding_and_batch_mates_change_nothing_in_the_encoder(attention, connection, left):
    check_encoder_padding(attention, connection, left)


@pytest.mark.parametrize("attention", sorted(ATTENTION_KINDS))
def test_the_padding_check_fails_where_keys_are_not_masked(attention, monkeypatch):
    kind = ATTENTION_KINDS[attention]
    masked = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, q, k, v, key_padding_mask: masked(self, q, k, v, None))
    with pytest.raises(AssertionError, match="not close"):
        check_encoder_padding(attention, "residual", 2)


@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_padding_and_batch_mates_change_nothing_in_the_decoder(attention, connection, left):
    layer = build(DecoderLayer, attention, connection)
    x, padding = 3 * normal(2, 9, 12), torch.zeros(2, 9, dtype=torch.bool)
    padding[0, 5:] = True
    source, source_padding = 3 * normal(2, 7, 12), torch.zeros(2, 7, dtype=torch.bool)
    source_padding[0, :left] = source_padding[0, left + 4 :] = True
    out = decode(layer, x, source, padding, source_padding)
    expected = decode(layer, x[:1, :5], source[:1, left : left + 4])
    torch.testing.assert_close(out[:1, :5], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("attention", sorted(ATTENTION_KINDS))
@pytest.mark.parametrize("length", [4, 30])
def test_the_memory_of_other_rows_equals_theirs(attention, length):
    layer = build(DecoderLayer, attention)
    source, positions, x = normal(3, length, 12), normal(1, length, 12), normal(3, length, 12)
    padding = torch.zeros(3, length, dtype=torch.bool)
    padding[1, 0] = True
    order = torch.tensor([2, 0])
    for rows_padding in (padding, None):
        of_fewer = None if rows_padding is None else rows_padding[order]
        reordered = layer.memory(source, rows_padding, positions, rows_padding).reorder(order)
        computed = layer.memory(source[order], of_fewer, positions, of_fewer)
        outputs = [layer(x[order], of_fewer, memory, Velocities()) for memory in (reordered, computed)]
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-14)


@torch.no_grad()
def test_only_a_source_that_is_read_many_times_is_projected():
    layer, source, positions = build(DecoderLayer, attention="momentum"), normal(3, 2, 12), normal(1, 4, 12)
    often, once = (layer.memory(source, None, positions, None, many_reads=many) for many in (True, False))
    assert isinstance(often.source, ProjectedSource) and isinstance(once.source, WeightedSource)
    x = normal(3, 4, 12)
    outputs = [layer(x, None, memory, Velocities()) for memory in (often, once)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-14)


def test_dropout_is_on_every_sub_layer_in_training_only():
    torch.manual_seed(1)
    layer = DecoderLayer(options(dropout=1.0)).double()
    x, source = normal(2, 3, 12), normal(2, 4, 12)
    layer.eval()
    assert torch.equal(decode(layer, x, source), decode(layer, x, source))
    layer.train()
    dropped = decode(layer, x, source)
    y = layer.encoder_attn_layer_norm(layer.positional_attn_layer_norm(layer.self_attn_layer_norm(x)))
    gate = torch.sigmoid(layer.feed_forward.gate(y))
    torch.testing.assert_close(dropped, layer.feed_forward.layer_norm(gate * y), rtol=1e-12, atol=1e-13)
