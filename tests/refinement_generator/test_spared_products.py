"""Sparing products while decoding changes no token."""

import pytest
from torch import Tensor

from momentum_fairseq import ops
from momentum_fairseq.modules import packed_linear
from tests import pairs
from tests.refinement_generator.decoding import decode, restless, sentences, tokens

OF_THE_PAPER = pairs.pairs(pairs.OF_THE_PAPER)


@pytest.mark.parametrize("attention", ["linear", "momentum"])
def test_projecting_the_source_changes_no_token(build_model, generator, attention, monkeypatch):
    # Wide enough for sources of these lengths to be projected.
    sizes = {"embed_dim": 64, "heads": 2}
    model, rows, projected = restless(build_model, attention=attention, connection="adaptive", **sizes), sentences(), []

    def counted(source: ops.WeightedSource, weight: Tensor, bias: Tensor):
        projected.append(ops.project_source(source, weight, bias))
        return projected[-1]

    place = "momentum_fairseq.modules.multihead_attention.project_source"
    monkeypatch.setattr(place, counted)
    found = tokens(decode(generator(), model, rows))
    assert any(isinstance(source, ops.ProjectedSource) for source in projected)
    monkeypatch.setattr(place, lambda source, weight, bias: source)
    assert found == tokens(decode(generator(), model, rows))


@pytest.mark.parametrize(("attention", "connection"), OF_THE_PAPER)
def test_packed_weights_and_joint_products_change_no_token(build_model, generator, attention, connection, monkeypatch):
    model, rows = restless(build_model, attention=attention, connection=connection), sentences()
    found = decode(generator(), model, rows)
    monkeypatch.setattr(packed_linear, "HAS_ONEDNN", False)
    plain = decode(generator(), model, rows)
    assert tokens(found) == tokens(plain)
    assert [h["steps"] for (h,) in found] == [h["steps"] for (h,) in plain]
