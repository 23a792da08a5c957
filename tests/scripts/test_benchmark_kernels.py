"""The benchmark and the error table of the kernels, through their command lines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_benchmark_compares_what_is_installed_and_names_what_is_not(tmp_path):
    result = run("benchmark_kernels.py", "--quick", "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    cells = {(row["kind"], row["pass"], row["length"]) for row in record["times"]}
    for kind in ("softmax", "linear", "momentum"):
        assert {(kind, pass_, length) for pass_ in ("forward", "forward+backward") for length in (64, 100)} <= cells
    assert all(row["kind"] != "softmax" or row["ratio"] == 1 for row in record["times"])
    assert all(row["median_ms"] > 0 and row["floor_ms"] > 0 for row in record["times"])
    assert record["not_compared"]["flash-linear-attention"] == "runs on a GPU only"
    assert "not compared: flash-linear-attention (runs on a GPU only)" in result.stdout
    assert record["hardware"]["kernel"] == "torch"


@pytest.mark.slow
def test_the_error_table_has_every_momentum_and_dtype_and_all_are_within_their_limit(tmp_path):
    result = run("kernel_errors.py", "--quick", "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "kernel_errors.json").read_text(encoding="utf-8"))
    assert len(record["errors"]) == 3 * 2 * 7
    assert all(0 < row["relative_rms"] <= record["limits"][row["dtype"]] for row in record["errors"])
    assert record["float16_finite"]
    assert "0 of 42 errors are over their limit" in result.stdout
    assert (tmp_path / "kernel_errors.md").read_text(encoding="utf-8").count("\n| ") == 7


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("benchmark_kernels.py", ["--momentum", "1"], "--momentum 1.0: must be between 0 and 1"),
        ("benchmark_kernels.py", ["--device", "cuda"], "--device cuda: must be cpu, or cuda where torch finds a GPU"),
        ("benchmark_kernels.py", ["--device", "cpu", "--lengths", "77"], "--lengths [77]: no shape has one of them"),
        ("kernel_errors.py", ["--device", "cuda"], "--device cuda:"),
    ],
)
def test_what_cannot_run_is_refused(script, arguments, message):
    result = run(script, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
