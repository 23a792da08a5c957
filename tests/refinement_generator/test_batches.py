"""A sentence's output doesn't depend on the batch that it is decoded in; the published faults make it."""

import pytest

from momentum_fairseq import ops
from momentum_fairseq.models.momentum_nat import MomentumNatModel
from momentum_fairseq.modules import ATTENTION_KINDS
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


@pytest.mark.parametrize(
    "options", [{"adaptive": False, "max_steps": 4}, {"length_beam": 3}, {"stopping": "jaccard", "window": 3}]
)
def test_tokens_are_identical_in_every_way_of_decoding(build_model, generator, options):
    check_batch_invariance(generator(**options), restless(build_model, connection="adaptive"))


@pytest.mark.parametrize("attention", ["linear", "momentum"])
def test_the_batch_check_fails_where_keys_are_not_masked(build_model, generator, attention, monkeypatch):
    def unmasked(*arguments, key_padding_mask, **numbers):
        return getattr(ops, f"{attention}_attention")(*arguments, **numbers)

    monkeypatch.setattr(f"momentum_fairseq.modules.attention_kinds.{attention}_attention", unmasked)
    with pytest.raises(AssertionError):
        check_batch_invariance(generator(), restless(build_model, attention=attention))


def test_the_batch_check_fails_where_momentum_takes_the_padded_length(build_model, generator, monkeypatch):
    def padded_length(q, k, v, *, momentum, step_size, key_padding_mask, feature_map):
        q, k = feature_map(q), feature_map(k)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
        return ops.momentum_attention(q, k, v, momentum=momentum, step_size=step_size)

    monkeypatch.setattr("momentum_fairseq.modules.attention_kinds.momentum_attention", padded_length)
    with pytest.raises(AssertionError):
        check_batch_invariance(generator(), restless(build_model))
