"""--store-ema with the models of the plug-in."""

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import EMAConfig
from fairseq.models.ema import build_ema

DECAY = 0.75


@pytest.fixture
def model(build_model):
    """One with random features, drawn anew at each update: its state holds options and integers, too."""
    return build_model(attention="performer", attention_redraw_interval=1)


def change(model, update: int) -> None:
    """As an update of a training does."""
    model.set_num_updates(update)
    for parameter in model.parameters():
        parameter.data.add_(1)


@pytest.mark.parametrize("ema_fp32", [False, True])
def test_parameters_are_averaged_and_draws_are_the_latest(model, ema_fp32):
    average = build_ema(model, EMAConfig(store_ema=True, ema_decay=DECAY, ema_fp32=ema_fp32), None)
    expected = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for update in (1, 2):
        change(model, update)
        average.step(model, update)
        expected = {name: DECAY * expected[name] + (1 - DECAY) * value for name, value in model.named_parameters()}
    averaged = average.get_model()
    for name, value in averaged.named_parameters():
        torch.testing.assert_close(value, expected[name])
    numbers = dict(model.named_buffers())
    drawn = [name for name in numbers if name.endswith((".number", ".seed", ".values"))]
    assert drawn and all(torch.equal(value, numbers[name]) for name, value in averaged.named_buffers() if name in drawn)


def test_an_average_is_kept_in_float32_of_a_model_in_half_precision(model):
    average = build_ema(model.half(), EMAConfig(store_ema=True, ema_fp32=True), None)
    change(model, 1)
    average.step(model, 1)
    name, parameter = next(model.named_parameters())
    assert average.fp32_params[name].dtype == torch.float32 and parameter.dtype == torch.float16
    average.build_fp32_params(average.fp32_params)  # as a resumed training does


def test_a_training_begins_with_the_average_of_another(model, build_model, tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {}, "extra_state": {"ema": model.state_dict()}}, path)
    options = {"attention": "performer", "attention_redraw_interval": 1}
    seeded = build_ema(build_model(seed=2, **options), EMAConfig(store_ema=True, ema_seed_model=str(path)), None).get_model()
    assert torch.equal(seeded.target_embedding.weight, model.target_embedding.weight)
    with pytest.raises(ValueError, match="the checkpoint has attention=performer.*; the model was built with attention=mom"):
        build_ema(build_model(), EMAConfig(store_ema=True, ema_seed_model=str(path)), None)


@pytest.mark.parametrize("more", [{"extra_state": {}}, {}])
def test_a_checkpoint_without_an_average_is_refused_by_its_name(more, tmp_path):
    torch.save({"model": {}, **more}, tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="plain.pt holds no moving average; its training had no --store-ema"):
        checkpoint_utils.load_ema_from_checkpoint(str(tmp_path / "plain.pt"))
