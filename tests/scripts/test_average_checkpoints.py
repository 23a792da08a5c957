"""Averaging checkpoints: the mean of the parameters, all else of the last, and nothing half-written."""

from pathlib import Path

import average_checkpoints
import pytest
import torch


def average(*arguments: Path) -> None:
    average_checkpoints.main(list(map(str, arguments)))


def checkpoint(path: Path, build_model, seed: int, **options) -> Path:
    """As fairseq writes them."""
    model = build_model(seed=seed, **options).state_dict()
    torch.save({"args": None, "cfg": None, "model": model, "extra_state": {"seed": seed}, "last_optimizer_state": {}}, path)
    return path


def test_the_average_is_the_mean_of_the_parameters_and_loads_into_the_model(build_model, tmp_path):
    paths = [checkpoint(tmp_path / f"{seed}.pt", build_model, seed) for seed in (1, 2, 3)]
    average(tmp_path / "out.pt", *paths)
    averaged = torch.load(tmp_path / "out.pt", weights_only=True)
    assert averaged["extra_state"] == {"seed": 3} and averaged["last_optimizer_state"] is None
    models = [torch.load(path, weights_only=True)["model"] for path in paths]
    for name, value in averaged["model"].items():
        if name == "_extra_state":
            assert value == models[0][name]
        else:
            torch.testing.assert_close(value, sum(model[name] for model in models) / 3, rtol=1e-6, atol=1e-7)
    build_model(seed=9).load_state_dict(averaged["model"])
    assert not list(tmp_path.glob("*.part"))


def test_checkpoints_of_two_models_are_refused_with_what_differs(build_model, tmp_path):
    paths = [checkpoint(tmp_path / "a.pt", build_model, 1, attention="linear"), checkpoint(tmp_path / "b.pt", build_model, 1)]
    with pytest.raises(SystemExit, match=r"a\.pt and .*b\.pt differ in _extra_state: not two checkpoints of one model"):
        average(tmp_path / "out.pt", *paths)
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_a_file_that_is_missing_or_no_checkpoint_is_refused_by_name(content, build_model, tmp_path):
    if content is not None:
        (tmp_path / "bad.pt").write_bytes(content)
    good = checkpoint(tmp_path / "a.pt", build_model, 1)
    with pytest.raises(SystemExit, match=r"bad\.pt: no"):
        average(tmp_path / "out.pt", tmp_path / "bad.pt", good)
    assert not (tmp_path / "out.pt").exists()


def test_one_checkpoint_is_no_average(build_model, tmp_path):
    with pytest.raises(SystemExit, match="takes two checkpoints or more, got 1"):
        average(tmp_path / "out.pt", checkpoint(tmp_path / "a.pt", build_model, 1))


def test_a_full_disk_is_said_and_leaves_nothing_half_written(build_model, tmp_path, monkeypatch):
    paths = [checkpoint(tmp_path / f"{seed}.pt", build_model, seed) for seed in (1, 2)]

    def full(obj: object, to: str) -> None:
        Path(to).write_bytes(b"half")
        raise RuntimeError("unexpected pos 908224 vs 908112")  # what torch says then

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SystemExit, match=r"error: could not write .*out\.pt \(is the disk full\?\)"):
        average(tmp_path / "out.pt", *paths)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_parameters_are_summed_in_float64_and_counters_are_the_lasts():
    models = [{"weight": torch.tensor([x]), "updates": torch.tensor(n)} for n, x in enumerate((1e8, 1.0, -1e8))]
    averaged = average_checkpoints.average(models)
    assert averaged["weight"].item() == pytest.approx(1 / 3) and averaged["weight"].dtype == torch.float32
    assert averaged["updates"] == 2
