"""The autoregressive model in fairseq's beam search: the states change no hypothesis, nor do batch mates."""

from functools import partial

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from momentum_fairseq.models.momentum_transformer import MomentumTransformerModel
from tests.models.sentences import EOS, PAD, pad, sources
from tests.models.transformers import CAUSAL_KINDS, Build, logits, tiny_transformer


@pytest.fixture
def build(dictionary: Dictionary) -> Build:
    return partial(tiny_transformer, dictionary)


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


@pytest.mark.parametrize("feed_forward", ["residual", "highway"])
def test_dropout_is_retained_in_the_layers_asked_for_step_by_step_too(build, dictionary, feed_forward):
    """All classes that drop, then each alone."""
    model, source = build(dropout=0.5, feed_forward=feed_forward), pad(sources(5, 9), 12, left=True)
    plain = search(model, dictionary, source)
    assert_same_hypotheses(search(model, dictionary, source), plain)
    classes = [type(module).__name__ for module in model.modules() if hasattr(module, "dropout")]
    for kept in (None, *dict.fromkeys(classes)):
        retained = build(dropout=0.5, feed_forward=feed_forward)
        retained.make_generation_fast_(retain_dropout=True, retain_dropout_modules=kept)
        drawn = [search(retained, dictionary, source, by_steps=steps) for steps in (True, True, False)]
        assert drawn[0] != drawn[1] and plain not in drawn


def test_alignments_are_refused_by_their_flag(build):
    with pytest.raises(ValueError, match="--print-alignment: the decoder keeps no attention weights"):
        build().make_generation_fast_(need_attn="hard")
    build().make_generation_fast_(need_attn=None)
