"""The autoregressive model on whole sentences: padding, causality, precision, embeddings, what a checkpoint may differ in."""

import copy
import math
from functools import partial

import pytest
import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from momentum_fairseq.models.causal_decoder import CausalDecoder
from momentum_fairseq.models.config import layer_options
from momentum_fairseq.models.momentum_transformer import MomentumTransformerModel
from momentum_fairseq.modules import SinusoidalPositions
from tests.models.embeddings import assert_shared_by_flag
from tests.models.sentences import PAD, pad, sources
from tests.models.transformers import ALL, CAUSAL_KINDS, Build, by_steps, logits, targets, tiny_transformer


@pytest.fixture
def build(dictionary: Dictionary) -> Build:
    return partial(tiny_transformer, dictionary)


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_padding_on_either_side_and_batch_mates_change_no_logits(build, attention, connection):
    model = build(attention=attention, connection=connection)
    for precision, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        model = model.to(precision)
        source, target = sources(5, 9, 2), targets(6, 3, 8)
        alone = logits(model, source[0][None], target[0][None])[0]
        for left_source in (False, True):
            for left_target in (False, True):
                batch = pad(target, 11, left_target)
                found = logits(model, pad(source, 13, left_source), batch)[0][batch[0].ne(PAD)]
                torch.testing.assert_close(found, alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_a_word_changes_no_logits_before_it_and_all_from_it_on(build, attention, connection):
    model = build(attention=attention, connection=connection).double()
    source, target = pad(sources(5, 9), 10, True), pad(targets(7, 7), 8, False)
    changed = target.clone()
    changed[:, 4] = 4 + (changed[:, 4] - 3) % 40
    difference = (logits(model, source, changed) - logits(model, source, target)).abs().amax(dim=(0, 2))
    assert (difference[:4] < 1e-12).all() and (difference[4:] > 1e-6).all()


def test_the_decoder_reads_scaled_embeddings_positions_and_the_last_encoder_layer(build):
    model = build(connection="residual")
    source, target = pad(sources(5), 8, True), pad(targets(4), 5, False)
    encoded = model.encoder(source)
    table = model.decoder.positions.table
    x = math.sqrt(12) * model.encoder.embedding.weight[source[0, 2:]] + table[:6]
    x = x[None]
    for layer in model.encoder.layers:
        x = layer(x, None, {})
    torch.testing.assert_close(encoded.hidden[:, 2:], x, rtol=1e-5, atol=1e-6)
    y = (math.sqrt(12) * model.decoder.embedding.weight[target[0]] + table[:5])[None]
    for layer in model.decoder.layers:
        y = layer(y, None, x, None, {})
    expected = y @ model.decoder.output_projection.weight.T
    torch.testing.assert_close(logits(model, source, target), expected, rtol=1e-5, atol=1e-5)


def test_with_norms_before_the_sub_layers_each_stack_ends_in_one(build):
    assert isinstance(build().encoder.layer_norm, nn.Identity) and isinstance(build().decoder.layer_norm, nn.Identity)
    model = build(normalize_before=True)
    source = pad(sources(5, 3), 6, True)
    hidden = model.encoder(source).hidden
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(2, 6), rtol=0, atol=1e-5)
    features, _ = model.extract_features(source, None, pad(targets(4, 4), 5, False))
    torch.testing.assert_close(features.var(-1, unbiased=False), torch.ones(2, 5), rtol=0, atol=1e-2)


@pytest.mark.parametrize(("attention", "connection"), ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_model_trains_and_decodes_in_half_precision(build, attention, connection, dtype):
    model = build(attention=attention, connection=connection)
    source, target = pad(sources(5, 3), 7, True), pad(targets(6, 4), 7, False)
    exact, other = logits(model, source, target), copy.deepcopy(model).to(dtype)
    output = logits(other, source, target)
    assert output.dtype == dtype
    tolerance = 0.02 if dtype == torch.float16 else 0.15
    torch.testing.assert_close(output.float(), exact, rtol=0, atol=tolerance)
    steps = by_steps(other, source, target, list(range(1, 8)))
    real = target.ne(PAD)
    torch.testing.assert_close(steps.float()[real], exact[real], rtol=0, atol=tolerance)
    output.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.dtype == dtype for parameter in other.parameters())


@pytest.mark.parametrize("attention", CAUSAL_KINDS)
def test_a_decoder_without_a_source_is_a_language_model(build, dictionary, attention):
    model = build(attention=attention, connection="adaptive").double()
    torch.manual_seed(2)
    options, positions = layer_options(model.cfg), SinusoidalPositions(100, 12)
    embedding, projection = model.decoder.embedding, model.decoder.output_projection
    decoder = CausalDecoder(
        dictionary, embedding, projection, 2, options, positions, max_target_positions=99, cross_attention=False
    )
    decoder, target, state = decoder.double().eval(), pad(targets(6, 3), 9, left=True), {}
    whole = decoder(target)[0]
    steps = torch.cat([decoder(target[:, :end], incremental_state=state)[0] for end in (5, 6, 7, 8, 9)], dim=1)
    real = target.ne(PAD)
    torch.testing.assert_close(steps[real], whole[real], rtol=0, atol=1e-10)
    decoder.reorder_incremental_state(state, torch.tensor([1, 1]))
    assert not any("encoder_attn" in name for name, _ in decoder.named_parameters())


def test_transnormer_reads_blocks_in_the_first_layer_of_two_of_either_stack(build):
    model = build(attention="transnormer")
    for stack in (model.encoder, model.decoder):
        assert [layer.self_attn.attention.diagonal for layer in stack.layers] == [True, False]


def test_embeddings_are_shared_by_flag(build):
    def matrices(**flags: bool) -> tuple[Tensor, Tensor, Tensor]:
        model = build(**flags)
        parts = (model.encoder.embedding, model.decoder.embedding, model.decoder.output_projection)
        return tuple(part.weight for part in parts)

    assert_shared_by_flag(matrices)


@pytest.mark.parametrize("words", [1, 40])
def test_sharing_all_embeddings_over_different_dictionaries_is_refused(build, dictionary, words):
    """As many words of another language, too."""
    cfg, other = build().cfg, Dictionary()
    for i in range(words):
        other.add_symbol(f"elsewhere{i}")
    cfg.share_all_embeddings = True
    with pytest.raises(ValueError, match="--share-all-embeddings needs a joined dictionary"):
        MomentumTransformerModel(cfg, other, dictionary)


def test_a_state_loads_into_an_equal_model(build):
    model, other = build(seed=1), build(seed=2)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    source, target = pad(sources(5), 6, True), pad(targets(6), 7, False)
    assert torch.equal(logits(model, source, target), logits(other, source, target))


@pytest.mark.parametrize(
    ("option", "value"),
    [("attention", "softmax"), ("attention_momentum", 0.5), ("connection", "adaptive"), ("heads", 4), ("layers", 1)],
)
def test_a_state_of_a_model_with_another_option_is_refused_by_its_name(build, option, value):
    own = getattr(build().cfg, option)
    with pytest.raises(ValueError) as error:
        build().load_state_dict(build(**{option: value}).state_dict())
    assert f"the checkpoint has {option}={value}; the model was built with {option}={own}" in str(error.value)


def test_dropout_and_the_longest_lengths_may_differ(build):
    build(dropout=0.3, max_source_positions=99).load_state_dict(build().state_dict())


def test_a_sentence_longer_than_the_model_was_built_for_is_refused(build):
    model = build(max_source_positions=6, max_target_positions=6)
    assert model.max_positions() == (6, 6) and model.max_decoder_positions() == 6
    with pytest.raises(ValueError, match="9 positions asked for, but the model was built for 7"):
        logits(model, pad(sources(8), 9, True), pad(targets(4), 5, False))
