"""The search for tiles, through its command line; in Triton's interpreter, where its times say nothing."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.scripts.commands import run

pytest.importorskip("triton")
SCRIPT = "scripts/tune_kernels.py"
PASSES = ("forward", "forward+backward")


@pytest.mark.slow
def test_every_tile_is_timed_beside_the_pinned_one_and_the_quickest_is_a_line_of_code(tmp_path):
    result = run(SCRIPT, "--quick", "--out", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "tune_kernels.json").read_text(encoding="utf-8"))
    assert record["left_out"] == {}
    for pass_ in PASSES:
        choices = [row["choice"] for row in record["times"] if row["pass"] == pass_]
        assert len(set(choices)) == len(choices) - 1  # the quickest is timed again beside itself in segments
        assert sum("segments" in choice for choice in choices) == 2
    assert len(record["best"]) == 2
    assert all(line.startswith("16: Tile(64, ") and line in result.stdout for line in record["best"])


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """The record of a search in which only those choices run whose names a function takes; another makes their outputs."""
    tune_kernels = importlib.import_module("tune_kernels")

    def search(runs: Callable[[str], bool], output: Callable[[str], Any] = lambda choice: torch.ones(2)) -> dict:
        def call_of(shape, pass_, choice, *_):
            def call() -> Any:
                if not runs(tune_kernels.show(choice)):
                    raise RuntimeError("out of shared memory\nmore")
                return output(tune_kernels.show(choice))

            return call

        monkeypatch.setattr(tune_kernels, "call_of", call_of)
        monkeypatch.setattr(sys, "argv", ["tune_kernels.py", "--quick", "--out", str(tmp_path)])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        tune_kernels.main()
        return json.loads((tmp_path / "tune_kernels.json").read_text(encoding="utf-8"))

    return search


def test_where_the_pinned_tile_does_not_run_the_ratio_names_the_one_it_is_to(tune):
    record = tune(lambda choice: not choice.startswith("Tile(64, 64, 8, 3)"))
    assert record["left_out"] == {
        f"(1, 64, 2, 16), {pass_}, Tile(64, 64, 8, 3)": "RuntimeError: out of shared memory" for pass_ in PASSES
    }
    assert len(record["best"]) == 2 and all(line.endswith(" × Tile(64, 32, 4, 3)") for line in record["best"])


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("tile", ["Tile(64, 64, 8, 3)", "Tile(64, 32, 4, 2)"])  # the pinned one, and another
def test_a_tile_that_makes_nan_or_infinity_in_one_of_its_tensors_is_named_and_left_out(tune, tile, value, place):
    def output(choice: str) -> list[torch.Tensor]:
        tensors = [torch.ones(2), torch.ones(2)]
        if choice.startswith(tile):
            tensors[place][0] = value
        return tensors

    record = tune(lambda choice: True, output)
    assert record["left_out"] == {
        f"(1, 64, 2, 16), {pass_}, {tile}": "NaN or infinity in what it computes" for pass_ in PASSES
    }
    assert len(record["best"]) == 2 and not any(row["choice"].startswith(tile) for row in record["times"])


def test_where_no_tile_runs_it_fails(tune):
    with pytest.raises(SystemExit, match=r"no tile runs for \(1, 64, 2, 16\), forward; \(1, 64, 2, 16\), forward\+backward;"):
        tune(lambda choice: False)


def test_without_a_gpu_it_says_that_times_would_mean_nothing():
    result = run(SCRIPT, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 2 and "torch finds no GPU, and the interpreter's times say nothing" in result.stderr
