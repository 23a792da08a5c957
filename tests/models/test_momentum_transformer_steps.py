"""The autoregressive model: step by step it gives what it gives for whole sentences, whatever beam search does."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from fairseq.data import Dictionary
from torch import Tensor

from momentum_fairseq.models.causal_decoder import STATE
from momentum_fairseq.models.momentum_transformer import MomentumTransformerModel
from momentum_fairseq.modules import MultiheadAttention
from momentum_fairseq.ops import LinearState, MomentumState
from tests.models.sentences import EOS, PAD, pad, sources
from tests.models.transformers import ALL, CAUSAL_KINDS, Build, by_steps, logits, targets, tiny_transformer


@pytest.fixture
def build(dictionary: Dictionary) -> Build:
    return partial(tiny_transformer, dictionary)


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
        {"attention_feature_map": "hedgehog"},
        {"attention": "linear", "attention_feature_map": "hedgehog"},
        {"attention_momentum_learned": True, "attention_feature_map": "taylor"},
        {"attention": "linear", "attention_feature_map": "taylor"},
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


def test_the_source_follows_sentences_that_have_changed_places_before(build):
    model, state, rows = build(), {}, torch.tensor([0, 0, 1, 1])
    encoded = model.encoder.reorder_encoder_out(model.encoder(pad(sources(5, 3), 7, True)), rows)

    def values() -> list[Tensor]:
        return [layer.source.v for layer in model.decoder.get_incremental_state(state, STATE).layers]

    model.decoder(torch.full((4, 1), EOS), encoded, state)
    before = values()
    for order in ([0, 2, 1, 3], [1, 0, 2, 3]):  # the second would change nothing had the first not been
        model.decoder.reorder_incremental_state(state, torch.tensor(order))
    assert all(torch.equal(a, b[[2, 0, 1, 3]]) for a, b in zip(values(), before, strict=True))


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
