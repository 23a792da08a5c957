"""A sentence's output doesn't depend on the batch that it is decoded in; the published faults make it."""

import pytest
import torch

from momentum_fairseq import ops, refinement_batches, refinement_generator
from momentum_fairseq.models.momentum_nat import MomentumNatModel
from momentum_fairseq.modules import ATTENTION_KINDS
from momentum_fairseq.ops.short_attention import short_attention
from momentum_fairseq.refinement_batches import NUMBERS_AT_ONCE, groups_of_like_length, join
from momentum_fairseq.refinement_generator import RefinementGenerator
from tests.pairs import pairs
from tests.refinement_generator.decoding import decode, restless, sentences, tokens

ALL = pairs(ATTENTION_KINDS)


def check_batch_invariance(generator: RefinementGenerator, model: MomentumNatModel) -> list[list[dict]]:
    """The same tokens and steps at batch 1, 7 and 64."""
    rows = sentences()
    whole = decode(generator, model, rows)
    for size in (1, 7):
        parts = decode(generator, model, rows, size)
        assert tokens(parts) == tokens(whole)
        assert [[h["steps"] for h in hs] for hs in parts] == [[h["steps"] for h in hs] for hs in whole]
        for one, other in zip(parts, whole, strict=True):
            assert one[0]["score"] == pytest.approx(other[0]["score"], abs=1e-5)
    return whole


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_tokens_are_identical_at_batch_1_7_and_64(build_model, generator, attention, connection):
    model = restless(build_model, attention=attention, connection=connection)
    whole = check_batch_invariance(generator(), model)
    assert len({len(hypotheses[0]["tokens"]) for hypotheses in whole}) > 5
    assert len({hypotheses[0]["steps"] for hypotheses in whole}) > 1


@pytest.mark.parametrize("attention", ["linear", "momentum"])
def test_tokens_are_identical_with_a_map_of_products(build_model, generator, attention):
    check_batch_invariance(generator(), restless(build_model, attention=attention, attention_feature_map="taylor"))


@pytest.mark.parametrize(
    "options", [{"adaptive": False, "max_steps": 4}, {"length_beam": 3}, {"stopping": "jaccard", "window": 3}]
)
def test_tokens_are_identical_in_every_way_of_decoding(build_model, generator, options):
    check_batch_invariance(generator(**options), restless(build_model, connection="adaptive"))


@pytest.mark.parametrize("attention", ["linear", "momentum"])
def test_the_batch_check_fails_where_keys_are_not_masked(build_model, generator, attention, monkeypatch):
    def unmasked(*arguments, key_padding_mask, **numbers):
        return getattr(ops, f"{attention}_attention")(*arguments, **numbers)

    def unmasked_short(*arguments, key_padding_mask, **numbers):
        return short_attention(*arguments, key_padding_mask=None, **numbers)

    monkeypatch.setattr(f"momentum_fairseq.modules.{attention}_kind.{attention}_attention", unmasked)
    monkeypatch.setattr("momentum_fairseq.modules.feature_map_kind.short_attention", unmasked_short)
    with pytest.raises(AssertionError):
        check_batch_invariance(generator(), restless(build_model, attention=attention))


def test_the_batch_check_fails_where_momentum_takes_the_padded_length(build_model, generator, monkeypatch):
    def padded_length(q, k, v, *, momentum, step_size, key_padding_mask, eps, feature_map):
        q, k = feature_map(q), feature_map(k)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
        return ops.momentum_attention(q, k, v, momentum=momentum, step_size=step_size, eps=eps)

    def padded_short(q, k, v, weights, *, key_padding_mask, eps, product_map):
        return padded_length(
            q, k, v, momentum=0.6, step_size=0.6, key_padding_mask=key_padding_mask, eps=eps, feature_map=lambda x: x
        )

    monkeypatch.setattr("momentum_fairseq.modules.momentum_kind.momentum_attention", padded_length)
    monkeypatch.setattr("momentum_fairseq.modules.feature_map_kind.short_attention", padded_short)
    with pytest.raises(AssertionError):
        check_batch_invariance(generator(), restless(build_model))


@pytest.mark.parametrize(("words", "few"), [(1, 0), (24, 0), (24, 1000), (100, 1000)])
@pytest.mark.parametrize("options", [{}, {"stopping": "jaccard", "window": 3}, {"adaptive": False, "max_steps": 3}])
def test_neither_groups_nor_waiting_for_others_change_a_result(build_model, generator, monkeypatch, words, few, options):
    """Down to one sentence at a time, and with sentences of several groups joined in the middle of their refinement."""
    model, rows = restless(build_model, connection="adaptive"), sentences(30)
    whole = decode(generator(retain_history=True, **options), model, rows)
    joined = []
    monkeypatch.setattr(refinement_generator, "join", lambda *arguments: joined.append(1) or join(*arguments))
    monkeypatch.setattr(refinement_batches, "NUMBERS_AT_ONCE", words * model.cfg.embed_dim)
    monkeypatch.setattr(refinement_generator, "FEW_WORDS", few)
    parts = decode(generator(retain_history=True, **options), model, rows)
    assert bool(joined) == (few > 0)
    for (part,), (one,) in zip(parts, whole, strict=True):
        assert part["tokens"].tolist() == one["tokens"].tolist()
        assert part["steps"] == one["steps"] == len(part["history"])
        assert [step["tokens"].tolist() for step in part["history"]] == [step["tokens"].tolist() for step in one["history"]]
        assert part["score"] == pytest.approx(one["score"], abs=1e-5)


@pytest.mark.parametrize("lengths", [[3], [5, 5, 5], [9, 1, 4, 30, 2, 4], list(range(1, 40))])
def test_groups_hold_every_sentence_once_and_few_words_each(lengths):
    groups = [group.tolist() for group in groups_of_like_length(torch.tensor(lengths), 512)]
    assert sorted(sum(groups, [])) == list(range(len(lengths)))
    widths = [max(lengths[i] for i in group) for group in groups]
    several = [(group, width) for group, width in zip(groups, widths, strict=True) if len(group) > 1]
    assert all(len(group) * width * 512 <= NUMBERS_AT_ONCE for group, width in several)
    assert widths == sorted(widths)
