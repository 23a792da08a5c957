"""Which saved states a refinement model takes, and which it refuses."""

import copy

import pytest
import torch
from fairseq.data import Dictionary
from torch import Tensor

from tests.models.nat_outputs import forward
from tests.models.sentences import pad, sources, words


def test_a_state_loads_into_an_equal_model(build_model):
    model, other = build_model(seed=1), build_model(seed=2)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    source, target = pad(sources(5), 6, left=True), pad(words(6), 6, left=False)
    assert torch.equal(forward(model, source, target)["steps"][-1], forward(other, source, target)["steps"][-1])


@pytest.mark.parametrize(
    ("option", "value"),
    [("attention", "softmax"), ("attention_momentum", 0.5), ("connection", "adaptive"), ("heads", 4), ("layers", 1)],
)
def test_a_state_of_a_model_with_another_option_is_refused_by_its_name(build_model, option, value):
    saved = build_model(**{option: value})
    own = getattr(build_model().cfg, option)
    with pytest.raises(ValueError) as error:
        build_model().load_state_dict(saved.state_dict())
    assert f"the checkpoint has {option}={value}; the model was built with {option}={own}" in str(error.value)


def test_dropout_and_the_longest_lengths_may_differ(build_model):
    build_model(dropout=0.3, max_source_positions=99).load_state_dict(build_model().state_dict())


def test_a_state_of_another_dictionary_is_refused_with_both_sizes(build_model):
    model, other = build_model(), Dictionary()
    other.add_symbol("elsewhere")
    saved = type(model)(model.cfg, other, other).state_dict()
    with pytest.raises(RuntimeError, match=r"embedding: the checkpoint's has 5 rows, this model's 44; use the data folder that"):
        model.load_state_dict(saved)


def test_a_state_of_tensors_only_is_taken(build_model):
    tensors = {k: v for k, v in build_model(seed=2).state_dict().items() if isinstance(v, Tensor)}
    model = build_model()
    model.load_state_dict(tensors)
    assert torch.equal(model.target_embedding.weight, tensors["target_embedding.weight"])
