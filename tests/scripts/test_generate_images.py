"""Drawing images: what is drawn step by step is what the whole model predicts, from the seed; constant cost; the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common.image_sampling import RereadingReader, SteppingReader, draw, save_picture, with_start
from generate_images import parse_arguments
from PIL import Image

from momentum_fairseq.models.causal_decoder import STATE
from momentum_fairseq.models.momentum_lm import MomentumLmConfig, MomentumLmModel
from momentum_fairseq.ops.logistic_mixture import sample_logistic_mixture
from momentum_fairseq.tasks.image_generation import ImageGenerationConfig, ImageGenerationTask

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
RESIDUAL = [(attention, "residual") for attention in ("softmax", "linear", "momentum")]
KINDS = [*RESIDUAL, ("momentum", "momentum"), ("momentum", "adaptive")]
LENGTH = 12  # of the images that are drawn here; the model doesn't mind


@pytest.fixture(scope="module")
def task() -> ImageGenerationTask:
    return ImageGenerationTask.setup_task(ImageGenerationConfig())


def build(task: ImageGenerationTask, attention: str, connection: str = "residual", **values: Any) -> MomentumLmModel:
    torch.manual_seed(1)
    size = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "dropout": 0.0, "mixture_components": 3}
    longest = {"max_source_positions": 4200, "max_target_positions": 4200, "tokens_per_sample": 4200}
    config = MomentumLmConfig(**{**size, **longest, "attention": attention, "connection": connection, **values})
    model = MomentumLmModel(config, task.dictionary, task.dictionary).eval()
    torch.nn.init.normal_(model.decoder.output_projection.weight)  # so that what was read matters
    return model


def some(images: int, values: int) -> torch.Tensor:
    return torch.randint(0, 256, (images, values), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(("attention", "connection"), KINDS)
def test_parameters_step_by_step_are_those_of_the_whole_image(task, attention, connection):
    model, image = build(task, attention, connection).double(), some(3, 20)
    whole = model(with_start(image, task))[0]
    with torch.inference_mode():
        for reader in (SteppingReader(model, task), RereadingReader(model, task)):
            found = [reader.start(image[:, :5])] + [reader.step(image[:, i].long()) for i in range(5, 20)]
            torch.testing.assert_close(torch.stack(found, 1), whole[:, 5:], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("attention", "connection"), KINDS)
def test_the_same_images_are_drawn_with_and_without_a_state(task, attention, connection):
    model, known = build(task, attention, connection).double(), some(4, 3)
    kept, reread = (
        draw(reader(model, task), known, LENGTH, torch.Generator().manual_seed(6)) for reader in (SteppingReader, RereadingReader)
    )
    assert torch.equal(kept, reread) and kept.shape == (4, LENGTH) and kept.dtype == torch.uint8


def test_the_seed_decides_the_images_and_what_is_known_stays(task):
    reader, known = SteppingReader(build(task, "momentum"), task), some(2, 5)
    first, again, other = (draw(reader, known, LENGTH, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first[:, :5], known) and torch.equal(other[:, :5], known)
    assert torch.equal(draw(reader, some(2, LENGTH), LENGTH, torch.Generator()), some(2, LENGTH))


def test_values_are_drawn_from_the_mixture_as_it_is(task):
    """With the generator's numbers in the order of the pixels: no temperature, no value taken twice."""
    reader, known = SteppingReader(build(task, "linear"), task), some(3, 5)
    drawn = draw(reader, known, LENGTH, torch.Generator().manual_seed(7))
    generator, values = torch.Generator().manual_seed(7), known.long()
    with torch.inference_mode():
        while values.shape[1] < LENGTH:
            following = sample_logistic_mixture(reader.start(values), generator)
            values = torch.cat([values, following.unsqueeze(1)], dim=1)
    assert torch.equal(drawn.long(), values)


def test_whole_images_are_drawn_out_of_nothing(task):
    nothing = torch.empty(3, 0, dtype=torch.uint8)
    found = draw(SteppingReader(build(task, "linear"), task), nothing, LENGTH, torch.Generator().manual_seed(1))
    assert found.shape == (3, LENGTH) and len({row.tobytes() for row in found.numpy()}) == 3


def test_a_prompt_longer_than_the_image_is_refused(task):
    reader = SteppingReader(build(task, "momentum"), task)
    with pytest.raises(ValueError, match="a prompt of 13 values is longer than an image of 12"):
        draw(reader, some(2, 13), LENGTH, torch.Generator())
    with pytest.raises(ValueError, match="no images to draw"):
        draw(reader, some(0, 3), LENGTH, torch.Generator())


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "momentum"), [("linear", 0.6), ("momentum", 0.99)])
def test_4096_steps_with_a_state_in_float32_do_not_drift_from_the_parallel_form(task, attention, momentum):
    model = build(task, attention, "adaptive", attention_momentum=momentum, layers=1)
    image = some(1, 4095)
    exact = build(task, attention, "adaptive", attention_momentum=momentum, layers=1).double()
    with torch.inference_mode():
        parallel, truth = model(with_start(image, task))[0][0], exact(with_start(image, task))[0][0]
        reader = SteppingReader(model, task)
        steps = torch.cat([reader.start(image[:, :0]), *(reader.step(image[:, i].long()) for i in range(4095))])
    for found in (parallel, steps):  # rounding of either form, the whole way
        torch.testing.assert_close(found.double(), truth, rtol=0, atol=1e-4 * truth.abs().mean().item())
    last = slice(4000, None)
    assert (steps - parallel)[last].norm() <= 1e-4 * parallel[last].norm()


@pytest.mark.parametrize(("attention", "constant"), [("softmax", False), ("linear", True), ("momentum", True)])
def test_what_is_kept_of_an_image_is_constant_but_for_softmax_attention(task, attention, constant):
    reader, sizes = SteppingReader(build(task, attention), task), []
    with torch.inference_mode():
        for values in (1, 100, 300):
            reader.start(some(2, values))
            reader.step(torch.zeros(2, dtype=torch.long))
            layers = reader.decoder.get_incremental_state(reader.state, STATE).layers
            sizes.append(sum(x.numel() for layer in layers for x in layer.words if isinstance(x, torch.Tensor)))
    assert (sizes[0] == sizes[1] == sizes[2]) == constant


@pytest.mark.parametrize("colours", [1, 3])
def test_a_picture_shows_the_images_in_rows_with_gaps(tmp_path, colours):
    rows = [np.full((2, 4, 5, colours), 7, np.uint8), np.full((1, 4, 5, colours), 250, np.uint8)]
    save_picture(rows, tmp_path / "new" / "picture.png", scale=2)
    found = np.asarray(Image.open(tmp_path / "new" / "picture.png"))
    assert found.shape == (2 * (2 * 6 + 2), 2 * (2 * 7 + 2), 3)
    assert (found[4:12, 4:14] == 7).all() and (found[16:24, 4:14] == 250).all() and (found[:4] == 128).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


@pytest.mark.slow
def test_the_benchmark_measures_six_rows_in_one_run_and_their_states(tmp_path):
    tiny = ["--layers", "1", "--embed-dim", "16", "--ffn-dim", "16", "--heads", "2", "--places", "2", "--values", "2"]
    command = [sys.executable, SCRIPTS / "generate_images.py", "--benchmark", "mnist", "--batches", "1", "2", *tiny, "--cpu"]
    command += ["--threads", "1", "--out", tmp_path / "speed.json"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "speed.json").read_text())
    assert [(r["pixels"], r["rows"][1]["batch"]) for r in record["results"]] == [(784, 1), (784, 2)]
    names = ["softmax without cache", "softmax", "linear", "momentum", "connection", "adaptive"]
    for found in record["results"]:
        assert [row["row"] for row in found["rows"]] == names and found["places"][0] < found["places"][-1]
        for row in found["rows"]:
            assert row["images_per_second"] > 0 and row["extrapolated"] and len(row["milliseconds"]) == 2
            grows = row["row"] in names[:2]
            assert (row["state_bytes"][0] < row["state_bytes"][-1]) == grows and row["peak_bytes"] > 0
        assert found["rows"][2]["over_linear"] == 1 and found["rows"][0]["over_linear"] is None
    assert {"command", "date", "git_revision", "hardware"} <= record.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a checkpoint to draw with, or --benchmark"),
        (["x.pt", "--benchmark", "mnist"], "give a checkpoint to draw with, or --benchmark"),
        (["--benchmark", "svhn"], "invalid choice: 'svhn'"),
        (["x.pt", "--samples", "-1"], "--samples must be at least 0, got -1"),
        (["x.pt", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["x.pt", "--samples", "0"], "nothing to draw"),
        (["x.pt", "--completions", "2"], "--completions needs --data"),
        (["x.pt", "--known", "5"], "--known needs --data"),
        (["x.pt", "--known", "0"], "--known needs --data"),
        (["x.pt", "--data", "y", "--known", "5", "--completions", "0"], "--known 5: there is nothing to complete"),
        (["x.pt", "--scale", "100000"], "--scale must be at most 32, got 100000"),
        (["x.pt", "--seed", str(2**64)], f"--seed must be at most {2**64 - 1}, got {2**64}"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse_arguments([*arguments, "--out", "x.png"])
    assert message in capsys.readouterr().err


def test_the_largest_seed_is_one_that_torch_takes():
    options = parse_arguments(["x.pt", "--out", "x.png", "--seed", str(2**64 - 1)])
    torch.Generator().manual_seed(options.seed)
