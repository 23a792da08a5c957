"""Sizes of attention kinds from the options to the layers and into checkpoints; random numbers in the course of a training."""

import pytest
import torch

from momentum_fairseq.modules.random_draws import RandomDraws


@pytest.mark.parametrize(
    ("options", "name", "shape"),
    [
        ({"attention": "performer", "attention_features": 7}, "directions.values", (2, 7, 6)),
        ({"attention": "rfa", "attention_features": 7}, "directions.values", (2, 7, 6)),
        ({"attention": "linformer", "attention_projected_length": 7}, "key_projection", (7, 257)),
        ({"attention": "reformer", "attention_hashes": 3, "attention_bucket": 16}, "rotations.values", (2, 3, 6, 8)),
    ],
)
def test_a_size_and_the_longest_sequence_reach_the_attention(build_model, options, name, shape):
    attention = build_model(**options).decoder2.layers[1].self_attn.attention
    *owner, last = name.split(".")
    assert tuple(getattr(attention.get_submodule(".".join(owner)), last).shape) == shape


@pytest.mark.parametrize(("kind", "name"), [("nystrom", "landmarks"), ("transnormer", "block")])
def test_a_size_that_shows_in_no_shape_reaches_the_attention_and_the_checkpoint(build_model, kind, name):
    five, six = (build_model(**{"attention": kind, f"attention_{name}": size}) for size in (5, 6))
    assert getattr(five.encoder.layers[0].self_attn.attention, name) == 5
    with pytest.raises(ValueError, match=f"the checkpoint has attention_{name}=6; the model was built with attention_{name}=5"):
        five.load_state_dict(six.state_dict())


def test_a_size_that_the_kind_does_not_have_is_refused(build_model):
    with pytest.raises(ValueError, match="momentum attention has no landmarks"):
        build_model(attention="momentum", attention_landmarks=8)


def test_transnormer_reads_blocks_in_the_first_layer_of_two(build_model):
    model = build_model(attention="transnormer")
    for stack in (model.encoder, model.decoder1, model.decoder2):
        assert [layer.self_attn.attention.diagonal for layer in stack.layers] == [True, False]
    assert not any(layer.encoder_attn.attention.diagonal for layer in model.decoder1.layers)


@pytest.mark.parametrize("attention", ["performer", "rfa", "reformer"])
def test_updates_of_a_training_draw_anew_and_a_resumed_model_goes_on_with_the_same_numbers(build_model, attention):
    def numbers(model) -> list[torch.Tensor]:
        return [module().clone() for module in model.modules() if isinstance(module, RandomDraws)]

    options = {"attention": attention, "attention_redraw_interval": 5}
    model, resumed = build_model(**options), build_model(seed=2, **options)
    first = numbers(model)
    assert len(first) == 14  # two layers of an encoder, two of each decoder with three attentions
    model.set_num_updates(7)
    second = numbers(model)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    resumed.load_state_dict(model.state_dict())
    for update in (8, 12):
        model.set_num_updates(update)
        resumed.set_num_updates(update)
        assert all(torch.equal(a, b) for a, b in zip(numbers(model), numbers(resumed), strict=True))
