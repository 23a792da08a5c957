"""The autoregressive model: step by step it gives what it gives for whole sentences, whatever beam search does."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from momentum_fairseq.models.causal_decoder import STATE, CausalDecoder
from momentum_fairseq.models.config import layer_options
from momentum_fairseq.models.momentum_transformer import MomentumTransformerConfig, MomentumTransformerModel
from momentum_fairseq.modules import ATTENTION_KINDS, MultiheadAttention, SinusoidalPositions
from momentum_fairseq.modules.causal_attention import has_causal_form
from momentum_fairseq.ops import LinearState, MomentumState
from tests.pairs import pairs

PAD, EOS = 1, 2
CAUSAL_KINDS = sorted(name for name, kind in ATTENTION_KINDS.items() if has_causal_form(kind))
ALL = pairs(CAUSAL_KINDS)
Build = Callable[..., MomentumTransformerModel]


@pytest.fixture
def build(dictionary: Dictionary) -> Build:
    """A tiny model in evaluation mode, seeded; keyword arguments are fields of its config."""

    def build(seed: int = 1, **values: Any) -> MomentumTransformerModel:
        torch.manual_seed(seed)
        tiny = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "dropout": 0.0}
        limits = {"max_source_positions": 256, "max_target_positions": 256}
        config = MomentumTransformerConfig(**{**tiny, **limits, **values})
        return MomentumTransformerModel(config, dictionary, dictionary).eval()

    return build


def words(*lengths: int, seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 44, (length,), generator=generator) for length in lengths]


def pad(sentences: list[Tensor], width: int, left: bool) -> Tensor:
    """int64 `[B, width]`."""
    rows = [F.pad(s, (width - len(s), 0) if left else (0, width - len(s)), value=PAD) for s in sentences]
    return torch.stack(rows)


def sources(*lengths: int) -> list[Tensor]:
    """Sentences with EOS behind; `lengths` count the words."""
    return [F.pad(sentence, (0, 1), value=EOS) for sentence in words(*lengths)]


def targets(*lengths: int) -> list[Tensor]:
    """Sentences as the decoder reads them, EOS before; `lengths` count the words."""
    return [F.pad(sentence, (1, 0), value=EOS) for sentence in words(*lengths, seed=6)]


def logits(model: MomentumTransformerModel, source: Tensor, target: Tensor) -> Tensor:
    return model(source, source.ne(PAD).sum(1), target)[0]


def by_steps(model: MomentumTransformerModel, source: Tensor, target: Tensor, ends: list[int]) -> Tensor:
    """The logits of the target, read up to each of `ends` at a time."""
    with torch.no_grad():
        encoded, state = model.encoder(source), {}
        return torch.cat([model.decoder(target[:, :end], encoded, state)[0] for end in ends], dim=1)


# step by step


def check_steps(model: MomentumTransformerModel, left_pad_target: bool, tolerance: float) -> None:
    source, target = pad(sources(5, 9, 2), 12, left=True), pad(targets(6, 3, 8), 9, left_pad_target)
    real, whole = target.ne(PAD), logits(model, source, target)
    for ends in (range(1, 10), [4, 5, 6, 9], [9]):
        found = by_steps(model, source, target, list(ends))
        torch.testing.assert_close(found[real], whole[real], rtol=0, atol=tolerance)


@pytest.mark.parametrize("left_pad_target", [False, True])
@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_step_by_step_logits_equal_those_of_whole_sentences(build, attention, connection, left_pad_target):
    model = build(attention=attention, connection=connection)
    check_steps(model, left_pad_target, 1e-5)
    check_steps(model.double(), left_pad_target, 1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"normalize_before": True, "connection": "adaptive"},
        {"connection_chain": "separate", "connection": "momentum"},
        {"feed_forward": "highway"},
        {"attention_momentum_learned": True, "attention_feature_map": "squared_relu"},
        {"heads": 4, "share_all_embeddings": True},
    ],
)
def test_step_by_step_logits_equal_those_of_whole_sentences_with_other_options(build, options):
    check_steps(build(**options).double(), False, 1e-10)


def beams(model: MomentumTransformerModel, orders: Callable[[int, torch.Generator], Tensor], steps: int = 7) -> float:
    """Decode three sentences with two hypotheses each, which change places after every step as beam search has it.

    Returns the largest difference between a logit read step by step and the same one of the whole hypothesis.
    """
    generator = torch.Generator().manual_seed(3)
    source = pad(sources(5, 9, 2), 12, left=True)
    encoded, state = model.encoder(source), {}
    rows = torch.arange(3).repeat_interleave(2)
    encoded, source = model.encoder.reorder_encoder_out(encoded, rows), source[rows]
    tokens, history = torch.full((6, 1), EOS), []
    for _ in range(steps):
        history.append(model.decoder(tokens, encoded, state)[0])
        order = orders(len(tokens), generator)
        model.decoder.reorder_incremental_state_scripting(state, order)
        encoded, source = model.encoder.reorder_encoder_out(encoded, order), source[order]
        tokens, history = tokens[order], [x[order] for x in history]
        tokens = torch.cat([tokens, torch.randint(4, 44, (len(tokens), 1), generator=generator)], dim=1)
    return (torch.cat(history, dim=1) - logits(model, source, tokens[:, :-1])).abs().max().item()


def within_sentences(count: int, generator: torch.Generator) -> Tensor:
    """Each hypothesis becomes one of the two of its sentence."""
    return torch.arange(count) // 2 * 2 + torch.randint(2, (count,), generator=generator)


def with_finished_sentences(count: int, generator: torch.Generator) -> Tensor:
    """Besides, a sentence leaves the batch now and then."""
    order = within_sentences(count, generator)
    return order[2:] if count > 2 and torch.rand((), generator=generator) < 0.4 else order


def anywhere(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (count,), generator=generator)


ORDERS = [within_sentences, with_finished_sentences, anywhere]


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_hypotheses_that_change_places_keep_their_logits(build, attention, connection, orders):
    model = build(attention=attention, connection=connection)
    with torch.no_grad():
        assert beams(model, orders) < 1e-5
        assert beams(model.double(), orders) < 1e-10


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("attention", CAUSAL_KINDS)
def test_the_check_fails_where_the_states_stay_in_their_places(build, attention, orders, monkeypatch):
    model = build(attention=attention)
    monkeypatch.setattr(model.decoder, "reorder_incremental_state", lambda state, order: None)
    with torch.no_grad(), pytest.raises((AssertionError, ValueError, RuntimeError)):
        assert beams(model, orders) < 1e-5


def test_the_source_is_read_once_and_moves_only_with_its_sentence(build, monkeypatch):
    model, remember, calls = build(), MultiheadAttention.remember, []
    monkeypatch.setattr(MultiheadAttention, "remember", lambda *inputs: calls.append(1) or remember(*inputs))
    encoded, state = model.encoder.reorder_encoder_out(model.encoder(pad(sources(5, 3), 7, True)), torch.tensor([0, 0, 1, 1])), {}
    target = pad(targets(4, 4, 4, 4), 5, left=False)

    def memories() -> list:
        return [layer.source for layer in model.decoder.get_incremental_state(state, STATE).layers]

    for end in range(1, 6):
        model.decoder(target[:, :end], encoded, state)
    assert len(calls) == 2  # one a layer
    before = memories()
    swap, drop = torch.tensor([1, 0, 2, 2]), torch.tensor([2, 3])
    model.decoder.reorder_incremental_state(state, swap)
    assert all(a is b for a, b in zip(memories(), before, strict=True))
    assert model.encoder.reorder_encoder_out(encoded, swap) is encoded
    model.decoder.reorder_incremental_state(state, drop)
    assert all(len(a.v) == 2 and torch.equal(a.v, b.v[2:]) for a, b in zip(memories(), before, strict=True))


@pytest.mark.parametrize(("attention", "kind"), [("linear", LinearState), ("momentum", MomentumState)])
def test_the_state_has_the_size_of_its_first_step_after_any_number_of_them(build, attention, kind):
    model = build(attention=attention)
    encoded, state, sizes = model.encoder(pad(sources(5), 6, True)), {}, set()
    target = pad(targets(99), 100, left=False)
    for end in range(1, 101):
        model.decoder(target[:, :end], encoded, state)
        layers = model.decoder.get_incremental_state(state, STATE).layers
        assert all(isinstance(layer.words, kind) for layer in layers)
        sizes.add(sum(x.numel() for layer in layers for x in layer.words))
    assert len(sizes) == 1


def test_words_that_are_read_already_are_an_error(build):
    model, state = build(), {}
    encoded, target = model.encoder(pad(sources(5), 6, True)), pad(targets(4), 5, False)
    model.decoder(target[:, :3], encoded, state)
    with pytest.raises(ValueError, match="3 words are read already and 1 were given; give all the words so far"):
        model.decoder(target[:, 3:4], encoded, state)


# beam search


def search(model: MomentumTransformerModel, dictionary: Dictionary, source: Tensor, *, by_steps=True, beam=4) -> list:
    """fairseq's beam search: tokens and score of every hypothesis of every sentence."""
    generator = SequenceGenerator([model], dictionary, beam_size=beam, max_len_b=12)
    generator.model.has_incremental = by_steps
    found = generator.generate([model], {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}})
    return [[(hypothesis["tokens"].tolist(), hypothesis["score"].item()) for hypothesis in sentence] for sentence in found]


def assert_same_hypotheses(ours: list, theirs: list) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert [tokens for tokens, _ in mine] == [tokens for tokens, _ in other]
        assert [score for _, score in mine] == pytest.approx([score for _, score in other], abs=1e-5)


@pytest.mark.parametrize("attention", CAUSAL_KINDS)
def test_beam_search_step_by_step_finds_what_it_finds_without_states(build, dictionary, attention):
    model = build(attention=attention, connection="adaptive", layers=1).double()
    source = pad(sources(5, 9, 2, 7), 12, left=True)
    found = search(model, dictionary, source)
    assert_same_hypotheses(found, search(model, dictionary, source, by_steps=False))
    assert len({len(sentence[0][0]) for sentence in found}) > 1 or attention != "softmax"


@pytest.mark.parametrize("attention", CAUSAL_KINDS)
def test_a_translation_does_not_depend_on_its_batch(build, dictionary, attention):
    model = build(attention=attention, connection="adaptive").double()
    alone = [search(model, dictionary, sentence[None])[0] for sentence in sources(5, 9, 2)]
    for left in (False, True):
        assert_same_hypotheses(search(model, dictionary, pad(sources(5, 9, 2), 15, left)), alone)


def test_a_beam_of_one_takes_the_best_word_at_each_step(build, dictionary):
    model, source = build().double(), pad(sources(5), 6, True)
    tokens = torch.tensor([[EOS]])
    for step in range(13):
        scores = logits(model, source, tokens)[:, -1].clone()
        scores[:, PAD] = -torch.inf
        if step == 0:
            scores[:, EOS] = -torch.inf
        best = scores.argmax(-1, keepdim=True) if step < 12 else torch.tensor([[EOS]])
        tokens = torch.cat([tokens, best], dim=1)
        if best.item() == EOS:
            break
    assert search(model, dictionary, source, beam=1)[0][0][0] == tokens[0, 1:].tolist()


# whole sentences


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


# a language model


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


# embeddings and checkpoints


def test_embeddings_are_shared_by_flag(build):
    def matrices(**flags: bool) -> list[int]:
        model = build(**flags)
        parts = (model.encoder.embedding, model.decoder.embedding, model.decoder.output_projection)
        return [part.weight.data_ptr() for part in parts]

    source, target, output = matrices()
    assert len({source, target, output}) == 3
    source, target, output = matrices(share_decoder_input_output_embed=True)
    assert source != target == output
    source, target, output = matrices(share_all_embeddings=True)
    assert source == target == output


def test_sharing_all_embeddings_over_different_dictionaries_is_refused(build, dictionary):
    cfg, other = build().cfg, Dictionary()
    other.add_symbol("elsewhere")
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
