"""An output projection that takes the place of a model's own, with a bias or another vocabulary, is the one that decodes."""

import pytest
import torch
from torch import nn

from momentum_fairseq.models.momentum_lm import MomentumLmConfig, MomentumLmModel
from momentum_fairseq.refinement_generator import RefinementGenerator

SIZES = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "dropout": 0.0}
TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def test_of_a_language_model_word_after_word(dictionary):
    torch.manual_seed(1)
    cfg = MomentumLmConfig(**SIZES, tokens_per_sample=64, max_target_positions=64, max_source_positions=64)
    model = MomentumLmModel(cfg, dictionary, dictionary).eval()
    with torch.no_grad():
        model(TOKENS, incremental_state={})
        model.decoder.output_projection = nn.Linear(12, len(dictionary) + 3)
        together, one_by_one = model(TOKENS)[0], model(TOKENS, incremental_state={})[0]
    assert one_by_one.shape == (2, 4, len(dictionary) + 3)
    torch.testing.assert_close(one_by_one, together, rtol=1e-5, atol=1e-5)


def test_of_the_refinement_model_in_the_generator(build_model, dictionary):
    model, sample = build_model(), {"net_input": {"src_tokens": TOKENS}}
    generator = RefinementGenerator(dictionary, max_steps=2)
    generator.generate([model], sample)
    model.output_projection = nn.Linear(12, len(dictionary))
    nn.init.constant_(model.output_projection.bias[20], 1e3)
    words = {word for (hypothesis,) in generator.generate([model], sample) for word in hypothesis["tokens"].tolist()}
    assert words == {20}


@pytest.mark.parametrize("bias", [False, True])
def test_of_the_refinement_model_in_the_loss_by_blocks(build_model, dictionary, bias):
    model = build_model()
    model.output_projection = nn.Linear(12, len(dictionary), bias=bias)
    losses = []
    for most_logits in (None, 0):
        output = model(TOKENS, None, TOKENS, [None], most_logits=most_logits)
        whole = [nn.functional.cross_entropy(logits, output["targets"], reduction="sum") for logits in output.get("steps", [])]
        losses.append(output.get("step_losses", whole))
    assert len(losses[0]) == 2
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
