"""What the parts of the refinement model read, what trains them, and the momentum that they report."""

import math

import pytest
import torch
import torch.nn.functional as F

from momentum_fairseq.models.nat_decoder import uniform_copy
from momentum_fairseq.modules.transformer_layer import Velocities
from tests.models.nat_outputs import forward
from tests.models.sentences import PAD, pad, sources, words


def test_the_encoder_input_is_the_scaled_embedding_plus_positions_and_all_layers_are_kept(build_model):
    model = build_model()
    tokens = pad(sources(4, 6), 8, left=True)
    source = model.encode(tokens)
    table = model.encoder.positions.table
    expected = math.sqrt(12) * model.encoder.embedding.weight[tokens[0, 3:]] + table[:5]
    torch.testing.assert_close(source.embedding[0, 3:], expected, rtol=1e-6, atol=1e-6)
    x, padding, velocities = source.embedding, tokens.eq(PAD), Velocities()
    for layer, output in zip(model.encoder.layers, source.layers, strict=True):
        x = layer(x, padding, velocities)
        torch.testing.assert_close(output, x, rtol=0, atol=0)
    assert source.lengths.tolist() == [4, 6]


def test_dropout_is_of_what_the_layers_read_and_not_of_the_embedding_that_the_decoder_copies(build_model):
    model = build_model(dropout=0.5)
    tokens = pad(sources(4, 6), 8, left=True)
    expected, source = model.encode(tokens), model.train().encode(tokens)
    assert torch.equal(source.embedding, expected.embedding)
    read = []
    model.encoder.layers[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model.encode(tokens)
    kept = read[0] != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(read[0][kept], 2 * expected.embedding[kept])


@pytest.mark.parametrize("decoder", ["decoder1", "decoder2"])
def test_dropout_is_of_the_decoder_inputs_with_their_positions(build_model, decoder):
    model = build_model(dropout=0.5)
    source, x, decoder = model.encode(pad(sources(4, 6), 8, left=True)), torch.randn(2, 9, 12), getattr(model, decoder)
    memory, read = decoder.memory(source, torch.zeros(2, 9, dtype=torch.bool)), []
    decoder.layers[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    decoder.train()(x, memory)
    kept = read[0] != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(read[0][kept], 2 * (x + decoder.positions.table[:9])[kept])


def test_with_norms_before_the_sub_layers_all_that_leaves_a_stack_is_normalised(build_model):
    """Else what goes into the next refinement step grows from step to step."""
    model = build_model(normalize_before=True)
    source = model.encode(pad(sources(4, 6), 8, left=True))
    state = model.translate(source, torch.tensor([5, 3]))
    for x in (*source.layers, state.hidden, model.refine(state).hidden):
        torch.testing.assert_close(x.mean(-1), torch.zeros(x.shape[:2]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.var(-1, unbiased=False), torch.ones(x.shape[:2]), rtol=0, atol=1e-2)
    assert not any("layer_norms" in name or "decoder1.layer_norm." in name for name in build_model().state_dict())


@pytest.mark.parametrize("decoder", ["decoder1", "decoder2"])
def test_decoder_layer_l_attends_to_encoder_layer_l(build_model, decoder):
    model = build_model(layers=3)
    source = model.encode(pad(sources(4, 6), 8, left=True))
    decoder, query = getattr(model, decoder), torch.randn(2, 5, 12)
    memory = decoder.memory(source, torch.zeros(2, 5, dtype=torch.bool))
    for layer_memory, layer, output in zip(memory.layers, decoder.layers, source.layers, strict=True):
        expected = layer.encoder_attn(query, output, output, source.padding_mask)
        torch.testing.assert_close(layer.encoder_attn.recall(query, layer_memory.source), expected, rtol=1e-5, atol=1e-6)


def test_a_decoder_adds_the_positions_to_its_input(build_model):
    model = build_model()
    source = model.encode(pad(sources(4), 5, left=True))
    padding, x = torch.zeros(1, 3, dtype=torch.bool), torch.randn(1, 3, 12)
    decoder, memory = model.decoder1, model.decoder1.memory(source, padding)
    expected, velocities = x + decoder.positions.table[:3], Velocities()
    for layer, layer_memory in zip(decoder.layers, memory.layers, strict=True):
        expected = layer(expected, None, layer_memory, velocities)
    torch.testing.assert_close(decoder(x, memory).hidden, expected, rtol=0, atol=0)


def test_the_two_decoders_and_the_length_predictor_have_weights_of_their_own(build_model):
    model = build_model()
    pointers = [
        {parameter.data_ptr() for parameter in part.parameters()}
        for part in (model.encoder, model.decoder1, model.decoder2, model.length_predictor)
    ]
    assert len(set.union(*pointers)) == sum(len(part) for part in pointers)


def test_the_steps_are_decoder_1_then_decoder_2_on_its_own_output_and_last_hidden_state(build_model):
    model = build_model(connection="adaptive").double()
    source_tokens, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    output = forward(model, source_tokens, target)
    source, padding = model.encode(source_tokens), target.eq(PAD)
    memory = model.decoder2.memory(source, padding)
    copied = uniform_copy(source, torch.tensor([6, 4]), 6)
    hidden = model.decoder1(copied, model.decoder1.memory(source, padding)).hidden
    for logits, predicted in zip(output["steps"], output["predictions"], strict=True):
        expected = (hidden @ model.output_projection.weight.T)[~padding]
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
        best = expected[:, 3:].argmax(-1) + 3
        assert torch.equal(predicted, best)
        tokens = torch.full_like(target, PAD).masked_scatter(~padding, best)
        embedded = math.sqrt(12) * model.target_embedding.weight[tokens]
        hidden = model.decoder2(embedded + hidden, memory).hidden
    assert torch.equal(output["targets"], target[~padding])
    assert output["length_targets"].tolist() == [21, 21]


def test_a_step_input_is_read_in_place_of_the_models_own_output(build_model):
    model = build_model()
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    free = forward(model, source, target)
    padding = target.eq(PAD)
    corrupted = torch.where(padding, PAD, 4 + (target - 3) % 40)
    forced = model(source, None, target, [None, corrupted, None])
    assert torch.equal(free["steps"][1], forced["steps"][1])
    assert (free["steps"][2] - forced["steps"][2]).abs().max() > 1e-3
    own = torch.full_like(target, PAD).masked_scatter(~padding, free["predictions"][1])
    fed_back = model(source, None, target, [None, own, None])
    assert torch.equal(fed_back["steps"][2], free["steps"][2])


@pytest.mark.parametrize("denoising", [False, True])
def test_the_last_steps_loss_alone_trains_decoder_1_through_the_hidden_state(build_model, denoising):
    model = build_model(connection="adaptive")
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    step_inputs = [target, target, target] if denoising else [None, None, None]
    output = model(source, None, target, step_inputs)
    F.cross_entropy(output["steps"][-1], output["targets"]).backward()
    for part in (model.decoder1, model.decoder2, model.encoder):
        weights = [p for name, p in part.named_parameters() if name.endswith("weight")]
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in weights)


def test_the_length_loss_alone_trains_the_length_predictor_alone(build_model):
    model = build_model()
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    output = forward(model, source, target)
    F.cross_entropy(output["length_logits"], output["length_targets"]).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"length_predictor.classifier.weight", "length_predictor.classifier.bias"}


def test_adaptive_momentum_is_reported_by_layer_from_the_second_sub_layer_of_a_chain_on(build_model):
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    model = build_model(connection="adaptive", layers=3)
    momentum = forward(model, source, target)["momentum"]
    later = {f"{part}_layer{i}" for part in ("encoder", "decoder1", "decoder2") for i in range(3)} - {"encoder_layer0"}
    assert set(momentum) == later
    assert all(0 < value < 1 for value in momentum.values())
    separate = build_model(connection="adaptive", layers=3, connection_chain="separate")
    assert set(forward(separate, source, target)["momentum"]) == {name for name in later if name[-1] != "0"}
    assert forward(build_model(connection="momentum"), source, target)["momentum"] == {}


def test_reported_momentum_is_the_mean_over_the_sub_layers_and_real_tokens_of_the_layer(build_model, monkeypatch):
    model = build_model(connection="adaptive", layers=2)
    source, target = pad(sources(5, 3), 9, left=True), pad(words(6, 4), 6, left=False)
    used = []
    original = type(model.encoder.layers[0].connection).forward

    def spy(connection, *arguments):
        x, state = original(connection, *arguments)
        used.append(state.momentum)
        return x, state

    monkeypatch.setattr(type(model.encoder.layers[0].connection), "forward", spy)
    reported = forward(model, source, target)["momentum"]
    real = target.ne(PAD)
    encoder, decoder1 = used[:2], used[2:8]  # one sub-layer in an encoder layer, three in a decoder layer
    assert encoder[0] is decoder1[0] is None
    torch.testing.assert_close(reported["encoder_layer1"], encoder[1].squeeze(-1)[source.ne(PAD)].mean(), rtol=1e-6, atol=0)
    for layer, momenta in ((0, decoder1[1:3]), (1, decoder1[3:])):
        expected = torch.stack([m.squeeze(-1)[real].mean() for m in momenta]).mean()
        torch.testing.assert_close(reported[f"decoder1_layer{layer}"], expected, rtol=1e-6, atol=0)
