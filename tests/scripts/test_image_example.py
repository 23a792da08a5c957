"""The recipe of image generation from idx files to JSON, pictures and the figure, and what its scripts refuse."""

import json
from subprocess import CompletedProcess

import plot_images
import pytest
import torch
from PIL import Image

from tests.image_sets import write_mnist
from tests.scripts.commands import run


def recipe(*arguments: object, **variables: object) -> CompletedProcess[str]:
    return run("examples/image_generation/run.sh", *arguments, **{"DEVICE": "cpu", "ROW": "adaptive", **variables})


def result(name: str, **values: object) -> dict:
    """What score_images.py writes, the part that is drawn."""
    curve = [{"updates": 10, "loss": 4.0}, {"updates": 20, "loss": 3.0, "valid_loss": 3.5}]
    score = {"split": "test", "images": 4, "bits_per_dim": 2.5, "standard_error": 0.1}
    rest = {"updates": 20, "max_update": 20, "seconds_per_update": 0.5, "lossy": False, "images": "mnist"}
    return {"name": name, "scores": [score], "curve": curve, **rest, **values}


@pytest.mark.slow
def test_a_row_goes_from_idx_files_to_json_and_pictures_and_a_second_call_does_nothing(tmp_path):
    data, runs, results = write_mnist(tmp_path / "mnist"), tmp_path / "runs", tmp_path / "results"
    places = {"DATA": data, "RUNS": runs, "RESULTS": results, "SIZE": "tiny"}
    flags = ("--skip-checksums", "--valid-images", 7)
    refused = recipe(**places)
    assert refused.returncode != 0 and "MD5 checksum" in refused.stdout + refused.stderr
    first = recipe(*flags, **places)
    assert first.returncode == 0, first.stdout + first.stderr
    record = json.loads((results / "adaptive-seed1.json").read_text())
    assert (record["name"], record["max_update"], record["scores"][0]["images"]) == ("adaptive", 20, 4)
    assert 3 < record["scores"][0]["bits_per_dim"] < 8.5 and record["lossy"] is False
    assert record["curve"][-1]["valid_loss"] < record["curve"][0]["loss"]
    assert record["model"]["connection"] == "adaptive" and record["model"]["attention_momentum"] == 0.6
    with Image.open(results / "adaptive-seed1.png") as picture:
        assert picture.size == (2 * (8 * 30 + 2), 2 * (8 * 30 + 2))  # four rows of samples, four of completions
    second = recipe(*flags, **places)
    assert second.stdout.count("nothing to do") == 3
    other = recipe(*flags, "--lr", 1, **places)
    assert other.returncode != 0 and "adaptive-seed1 was trained with" in other.stderr and "'--valid-images' '7'" in other.stderr
    assert recipe(**places).stdout.count("nothing to do") == 3
    assert run("scripts/plot_images.py", results).returncode == 0
    assert "| adaptive | 1 |" in (results / "table.md").read_text()
    checkpoint = runs / "mnist-tiny" / "adaptive-seed1" / "checkpoint_best.pt"
    long = run("scripts/generate_images.py", checkpoint, "--data", data, "--known", 785, "--out", tmp_path / "x.png", "--cpu")
    assert long.returncode == 1 and "--known 785: the prompt is longer than the image, which has 784 values" in long.stderr
    assert not (tmp_path / "x.png").exists()
    many = run("scripts/generate_images.py", checkpoint, "--data", data, "--completions", 5, "--out", tmp_path / "x.png", "--cpu")
    assert many.returncode == 1 and "--completions 5: the test set has 4 images" in many.stderr
    lost = run("scripts/score_images.py", checkpoint, tmp_path / "none", "--out", tmp_path / "x.json", "--cpu")
    assert lost.returncode == 1 and lost.stderr.startswith("error: ") and "none" in lost.stderr
    state = torch.load(checkpoint, weights_only=True)
    state["cfg"]["dataset"]["batch_size"], state["cfg"]["dataset"]["max_tokens"] = None, 4096
    torch.save(state, tmp_path / "tokens.pt")
    scored = run("scripts/score_images.py", tmp_path / "tokens.pt", data, "--out", tmp_path / "tokens.json", "--cpu")
    assert scored.returncode == 0, scored.stderr
    by_tokens = json.loads((tmp_path / "tokens.json").read_text())
    assert (by_tokens["batch_size"], by_tokens["max_tokens"]) == (None, 4096)
    state["cfg"]["task"] = {"_name": "copy", "symbols": 10, "tokens_per_sample": 64, "train_sequences": 5, "valid_sequences": 5}
    torch.save(state, tmp_path / "copy.pt")
    other = run("scripts/generate_images.py", tmp_path / "copy.pt", "--out", tmp_path / "x.png", "--cpu")
    assert other.returncode == 1 and "copy.pt" in other.stderr and not (tmp_path / "x.png").exists()


@pytest.mark.slow
def test_a_training_stops_after_its_minutes_and_the_same_command_goes_on(tmp_path):
    places = {"DATA": write_mnist(tmp_path / "mnist"), "RUNS": tmp_path / "runs", "SIZE": "tiny", "STAGES": "train"}
    last = tmp_path / "runs" / "mnist-tiny" / "adaptive-seed1" / "checkpoint_last.pt"
    updates = []
    for limit in ({"MAX_MINUTES": 0.001}, {}):
        trained = recipe("--skip-checksums", "--valid-images", 7, **limit, **places)
        assert trained.returncode == 0, trained.stdout + trained.stderr
        updates.append(torch.load(last, weights_only=True)["optimizer_history"][-1]["num_updates"])
    assert updates == [1, 20]


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"nothing")
    broken = run("scripts/generate_images.py", tmp_path / "x.pt", "--out", tmp_path / "x.png", "--cpu")
    missing = run("scripts/score_images.py", tmp_path / "y.pt", tmp_path, "--out", tmp_path / "x.json", "--cpu")
    assert broken.returncode == 1 and "x.pt: not a checkpoint that can be loaded" in broken.stderr
    assert missing.returncode == 1 and "no checkpoint" in missing.stderr


def test_the_table_and_the_curves_are_means_of_the_seeds(tmp_path):
    for seed, bits in ((1, 2.0), (2, 3.0)):
        score = {"split": "test", "images": 4, "bits_per_dim": bits, "standard_error": 0.1}
        (tmp_path / f"linear-seed{seed}.json").write_text(json.dumps(result("linear", scores=[score])))
    (tmp_path / "softmax-seed1.json").write_text(json.dumps(result("softmax")))
    rows = plot_images.read(tmp_path)
    assert list(rows) == ["softmax", "linear"]
    assert "| linear | 2 | 20 | 2.5000 | 0.1000 | 0.500 |" in plot_images.table(rows)
    assert plot_images.curve(rows["linear"], "loss") == ([10, 20], [4.0, 3.0])
    assert plot_images.curve(rows["linear"], "valid_loss") == ([20], [3.5])
    plot_images.plot(rows, tmp_path / "bits.png")
    assert (tmp_path / "bits.png").stat().st_size > 1000


def test_a_curve_is_the_mean_of_the_seeds_at_the_updates_that_all_have_logged():
    curves = ({10: 4.0, 20: 3.0, 30: 2.5}, {10: 5.0, 15: 4.5, 30: 1.5, 40: 1.0})
    seeds = [result("linear", curve=[{"updates": n, "loss": loss} for n, loss in points.items()]) for points in curves]
    assert plot_images.curve(seeds, "loss") == ([10, 30], [4.5, 2.0])


def test_results_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no <ROW>-seed<SEED>.json"):
        plot_images.read(tmp_path)
    (tmp_path / "linear-seed1.json").write_text(json.dumps(result("linear")))
    (tmp_path / "softmax-seed1.json").write_text(json.dumps(result("softmax", images="cifar10")))
    with pytest.raises(ValueError, match="scores of different images"):
        plot_images.read(tmp_path)
    (tmp_path / "softmax-seed1.json").write_text(json.dumps(result("softmax", lossy=True)))
    with pytest.raises(ValueError, match="different images: mnist test, 4 images; mnist test, 4 images, lossy"):
        plot_images.read(tmp_path)
    (tmp_path / "softmax-seed1.json").unlink()
    for other, message in (({"seed": 1}, "both of row linear, seed 1"), ({"seed": 2, "lr": [0.1]}, r"differ in lr \(\[1\] and")):
        for file, values in (("linear-seed1.json", {"seed": 1, "lr": [1]}), ("linear-seed2.json", other)):
            (tmp_path / file).write_text(json.dumps(result("linear", **values)))
        with pytest.raises(ValueError, match=message):
            plot_images.read(tmp_path)
    (tmp_path / "linear-seed2.json").unlink()
    (tmp_path / "softmax-seed1.json").write_text(json.dumps(result("softmax", max_update=2000)))
    with pytest.raises(ValueError, match="trainings of 20 and 2,000 updates; make a table for each"):
        plot_images.read(tmp_path)
    (tmp_path / "softmax-seed1.json").write_text(json.dumps({"name": "softmax"}))
    with pytest.raises(ValueError, match="softmax-seed1.json: no result of score_images.py .* no scores, curve"):
        plot_images.read(tmp_path)


def test_a_training_that_was_stopped_is_called_so_in_the_table(tmp_path):
    (tmp_path / "linear-seed1.json").write_text(json.dumps(result("linear", updates=10, last_update=12)))
    assert "| linear | 1 | 10 (stopped after 12 of 20) |" in plot_images.table(plot_images.read(tmp_path))


def test_a_lossy_set_is_called_so_in_the_table(tmp_path):
    (tmp_path / "linear-seed1.json").write_text(json.dumps(result("linear", lossy=True)))
    assert "lossy: not comparable with published results" in plot_images.table(plot_images.read(tmp_path))


def test_wrong_settings_are_named(tmp_path):
    for name, value, message in (
        ("ROW", "other", "ROW=other: must be softmax, linear, momentum, connection or adaptive"),
        ("DATASET", "svhn", "DATASET=svhn: must be mnist or cifar10"),
        ("SIZE", "huge", "SIZE=huge: must be paper, small or tiny"),
        ("DATA", tmp_path / "none", "must name the folder of the mnist images"),
        ("MAX_UPDATE", "0", "MAX_UPDATE=0: must be a whole number, at least 1"),
        ("MAX_MINUTES", "long", "MAX_MINUTES=long: must be a number"),
        ("DEVICE", "tpu", "DEVICE=tpu: must be cpu, cuda or auto"),
    ):
        found = recipe(**{"DATA": tmp_path, name: value})
        assert found.returncode != 0 and message in found.stderr
    found = run("examples/image_generation/gpu.sh", DATA=tmp_path / "none")
    assert found.returncode != 0 and "must name the folder of the mnist images" in found.stderr
