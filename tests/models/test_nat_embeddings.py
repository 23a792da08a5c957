"""Embeddings of the refinement model: shared or not, and the dictionaries that they are of."""

import pytest
from fairseq.data import Dictionary
from torch import Tensor

from momentum_fairseq.models.nat_encoder import NatEncoder
from tests.models.embeddings import assert_shared_by_flag
from tests.models.sentences import PAD


def test_embeddings_are_shared_by_flag(build_model):
    def matrices(**flags: bool) -> tuple[Tensor, Tensor, Tensor]:
        model = build_model(**flags)
        parts = (model.encoder.embedding, model.target_embedding, model.output_projection)
        return tuple(part.weight for part in parts)

    assert_shared_by_flag(matrices)


@pytest.mark.parametrize("words", [1, 40])
def test_sharing_all_embeddings_over_different_dictionaries_is_refused(build_model, dictionary, words):
    """As many words of another language, too."""
    model, other = build_model(), Dictionary()
    for i in range(words):
        other.add_symbol(f"elsewhere{i}")
    model.cfg.share_all_embeddings = True
    with pytest.raises(ValueError, match="--share-all-embeddings needs a joined dictionary"):
        type(model)(model.cfg, other, dictionary)


def test_different_dictionaries_have_embeddings_of_their_own_sizes(build_model, dictionary):
    model, other = build_model(), Dictionary()
    other.add_symbol("elsewhere")
    built = type(model)(model.cfg, other, dictionary)
    assert [len(built.encoder.embedding.weight), len(built.target_embedding.weight)] == [5, 44]


def test_a_dictionary_that_does_not_begin_with_the_special_symbols_is_refused(build_model, dictionary):
    model, other = build_model(), Dictionary()
    other.add_symbol("word")
    other.eos_index = other.add_symbol("</end>")
    with pytest.raises(ValueError, match="must begin with BOS, padding and EOS"):
        type(model)(model.cfg, dictionary, other)


@pytest.mark.parametrize("share", [False, True])
def test_padding_embeds_to_zero(build_model, share):
    model = build_model(share_all_embeddings=share)
    assert (model.encoder.embedding.weight[PAD] == 0).all()
    assert (model.target_embedding.weight[PAD] == 0).all()
    assert isinstance(model.encoder, NatEncoder)


def test_embeddings_and_the_projection_start_from_a_variance_of_one_over_the_width(build_model):
    model = build_model(embed_dim=64)
    for part in (model.encoder.embedding, model.target_embedding, model.output_projection):
        assert part.weight.std().item() == pytest.approx(1 / 8, rel=0.1)
