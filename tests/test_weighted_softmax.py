"""The plug-in of the Multi30k example, softmax attention times 0.6: each attention of a whole model is weighted exactly once."""

import runpy
from functools import partial
from pathlib import Path

import pytest
import torch

from momentum_fairseq.modules import ATTENTION_KINDS, AttentionKind, MultiheadAttention
from momentum_fairseq.refinement_generator import RefinementGenerator
from tests.models.nat_outputs import forward
from tests.models.sentences import pad, sources, words
from tests.refinement_generator.decoding import decode, restless, sentences

PLUGIN = Path(__file__).resolve().parents[1] / "examples/multi30k_en_de/weighted_softmax/__init__.py"


@pytest.fixture(autouse=True)
def _kind(monkeypatch):
    monkeypatch.setitem(ATTENTION_KINDS, "weighted_softmax", None)  # and out of it again, for other tests
    runpy.run_path(str(PLUGIN))


def pair(build):
    """A model of this kind, and a softmax model that does the same: the weight stands in the projection of what is read."""
    weighted, plain = build(attention="weighted_softmax"), build(attention="softmax")
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, MultiheadAttention):
                module.out_proj.weight.mul_(0.6)
    return weighted, plain


def test_a_training_step_is_that_of_softmax_with_the_weight_in_its_projections(build_model):
    source, target = pad(sources(4, 6), 8, left=True), pad(words(5, 3), 7, left=False)
    outputs, gradients = [], []
    for model in pair(lambda **options: build_model(**options).double().train()):
        output = forward(model, source, target)
        outputs.append([*output["steps"], output["length_logits"]])
        sum(logits.square().sum() for logits in outputs[-1]).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if "out_proj.weight" not in name})
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_decoding_is_that_of_softmax_with_the_weight_in_its_projections(build_model, dictionary, monkeypatch):
    joint, calls = AttentionKind.joint, []
    monkeypatch.setattr(AttentionKind, "joint", lambda *inputs: calls.append(1) or joint(*inputs))
    generator, models = RefinementGenerator(dictionary, max_steps=4, adaptive=False), pair(partial(restless, build_model))
    weighted, plain = ([best for best, in decode(generator, model, sentences())] for model in models)
    assert calls  # decoding takes forms that training doesn't
    for ours, theirs in zip(weighted, plain, strict=True):
        assert ours["tokens"].tolist() == theirs["tokens"].tolist()
        torch.testing.assert_close(ours["positional_scores"], theirs["positional_scores"], rtol=1e-4, atol=1e-4)
