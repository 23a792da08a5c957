"""The search for tiles, through its command line; in Triton's interpreter, where its times say nothing."""

import json

import pytest

from tests.scripts.commands import run

pytest.importorskip("triton")
SCRIPT = "scripts/tune_kernels.py"


@pytest.mark.slow
def test_every_tile_is_timed_beside_the_pinned_one_and_the_quickest_is_a_line_of_code(tmp_path):
    result = run(SCRIPT, "--quick", "--out", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "tune_kernels.json").read_text(encoding="utf-8"))
    assert record["left_out"] == {}
    for pass_ in ("forward", "forward+backward"):
        choices = [row["choice"] for row in record["times"] if row["pass"] == pass_]
        assert len(set(choices)) == len(choices) - 1  # the quickest is timed again beside itself in segments
        assert sum("segments" in choice for choice in choices) == 2
    assert len(record["best"]) == 2
    assert all(line.startswith("16: Tile(64, ") and line in result.stdout for line in record["best"])


def test_without_a_gpu_it_says_that_times_would_mean_nothing():
    result = run(SCRIPT, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 2 and "torch finds no GPU, and the interpreter's times say nothing" in result.stderr
