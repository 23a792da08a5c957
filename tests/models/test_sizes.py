"""Sizes of models that make no model: refused by their flags."""

import pytest
import torch
from fairseq.criterions.cross_entropy import CrossEntropyCriterion

from momentum_fairseq.criterions.nat_refinement_loss import NatRefinementLoss
from momentum_fairseq.models.momentum_lm import MomentumLmConfig, MomentumLmModel
from tests.models.nat_outputs import forward
from tests.models.sentences import pad, sources, words


@pytest.mark.parametrize("option", ["embed_dim", "ffn_dim", "layers", "heads", "max_source_positions", "max_target_positions"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_below_one_is_refused(build_model, option, value):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} must be at least 1, got {value}"):
        build_model(**{option: value})


def test_a_language_model_without_width_is_refused(dictionary):
    config = MomentumLmConfig(embed_dim=0, tokens_per_sample=8, max_source_positions=8, max_target_positions=8)
    with pytest.raises(ValueError, match="--embed-dim must be at least 1, got 0"):
        MomentumLmModel(config, dictionary, dictionary)


@pytest.mark.parametrize(("source", "target"), [(4, 9), (9, 4)])
def test_sentences_as_long_as_the_refinement_model_was_built_for_are_read(build_model, source, target):
    model = build_model(max_source_positions=source, max_target_positions=target)
    forward(model, pad(sources(source - 1), source, left=True), pad(words(target), target, left=False))
    with pytest.raises(ValueError, match="10 positions asked for, but the model was built for 9"):
        model.encode(pad(sources(9), 10, left=True))


def test_a_negative_length_offset_is_refused(build_model):
    with pytest.raises(ValueError, match=r"\(--max-length-offset\) must not be negative, got -1"):
        build_model(max_length_offset=-1)


def test_the_loss_names_the_task_that_it_needs(build_model):
    with pytest.raises(ValueError, match="nat_refinement_loss needs --task translation_nat"):
        NatRefinementLoss(None, 1.0)(build_model(), {"net_input": {}, "target": None, "ntokens": 1})


def test_the_model_names_the_loss_that_it_needs(build_model, build_task):
    source = torch.tensor([[5, 6, 2]])
    sample = {"net_input": {"src_tokens": source, "src_lengths": torch.tensor([3])}, "target": source[:, :2], "ntokens": 2}
    with pytest.raises(ValueError, match="momentum_nat needs --criterion nat_refinement_loss"):
        CrossEntropyCriterion(build_task(), sentence_avg=False)(build_model(), sample)
