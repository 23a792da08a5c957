"""The benchmark and the error table of the kernels, through their command lines."""

import json
import sys

import benchmark_kernels
import kernel_errors
import pytest
import torch
from common.benchmark_tables import describe

from tests.scripts.commands import run


@pytest.mark.slow
def test_the_benchmark_compares_what_is_installed_and_names_what_is_not(tmp_path):
    result = run("scripts/benchmark_kernels.py", "--quick", "--out", tmp_path, CUDA_VISIBLE_DEVICES="")
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
    text = describe(record)
    assert text.count("\n| momentum | ") == 2
    assert "Momentum's time over that of linear: forward " in text
    assert "- Not compared: flash-linear-attention (runs on a GPU only)." in text


def test_a_kind_that_cannot_be_recorded_as_a_graph_is_noted_and_the_others_are_compared(monkeypatch, capsys):
    def graph_of(call):
        if call() == "synchronises":
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return call

    monkeypatch.setattr(benchmark_kernels, "graph_of", graph_of)
    calls = {name: str for name in ("softmax", "linear", "fla linear")} | {"momentum": lambda: "synchronises"}
    failures: dict[str, str] = {}
    assert benchmark_kernels.graphs_of(calls, failures, "place") == {"softmax": str, "linear": str}
    assert failures == {"momentum, place": "RuntimeError: operation not permitted when stream is capturing"}
    assert capsys.readouterr().out == "failed: momentum, place (RuntimeError: operation not permitted when stream is capturing)\n"
    assert benchmark_kernels.graphs_of(calls | {"softmax": lambda: "synchronises"}, failures, "place") == {}


def test_a_kind_that_fails_is_noted_and_the_others_are_timed_all_the_same(tmp_path, monkeypatch, capsys):
    class CompilationError(Exception):
        """As Triton's, of no class that a benchmark knows."""

    def fail(*_):
        raise CompilationError("no such tile\nmore")

    kinds = {"softmax": benchmark_kernels.softmax, "linear": benchmark_kernels.ours("linear", "", 0.6)}
    kinds |= {"momentum": fail, "peer": fail}
    monkeypatch.setattr(benchmark_kernels, "kinds_of", lambda *_: (kinds, {}))
    arguments = ["benchmark_kernels.py", "--quick", "--device", "cpu", "--passes", "forward", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="not all of softmax, linear and momentum ran"):
        benchmark_kernels.main()
    assert "failed: momentum, (1, 64, 2, 16), forward (CompilationError: no such tile)\n" in capsys.readouterr().out
    record = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    assert {(row["kind"], row["length"]) for row in record["times"]} == {(k, n) for k in ("softmax", "linear") for n in (64, 100)}
    assert len(record["failed"]) == 4
    assert "over that of" not in describe(record)  # there is no time of momentum to compare


def test_a_shape_that_none_takes_loses_no_others_times(tmp_path, monkeypatch):
    def short_alone(q, *_):
        if q.shape[-2] == 100:
            raise torch.OutOfMemoryError("of memory\nmore")
        return q

    monkeypatch.setattr(benchmark_kernels, "kinds_of", lambda *_: (dict.fromkeys(benchmark_kernels.NEEDED, short_alone), {}))
    arguments = ["benchmark_kernels.py", "--quick", "--device", "cpu", "--passes", "forward", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="not all of softmax, linear and momentum ran"):
        benchmark_kernels.main()
    record = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    assert [(row["kind"], row["length"]) for row in record["times"]] == [(kind, 64) for kind in benchmark_kernels.NEEDED]
    assert len(record["failed"]) == 3


def test_without_softmax_there_are_times_and_no_ratios(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError

    kinds = {"softmax": fail, "linear": fail, "momentum": benchmark_kernels.ours("momentum", "", 0.6)}
    monkeypatch.setattr(benchmark_kernels, "kinds_of", lambda *_: (kinds, {}))
    arguments = ["benchmark_kernels.py", "--quick", "--device", "cpu", "--passes", "forward", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        benchmark_kernels.main()
    record = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    assert [row["kind"] for row in record["times"]] == ["momentum"] * 2
    assert record["failed"]["linear, (1, 100, 2, 16), forward"] == "ValueError: "


def test_the_table_has_a_column_for_every_length_an_empty_cell_for_what_failed_and_the_aims():
    def row(kind: str, length: int, ms: float, ratio: float, **more: float) -> dict:
        shape = {"pass": "forward", "batch": 4096 // length, "length": length, "heads": 2, "dim": 32}
        return {**shape, "kind": kind, "median_ms": ms, "iqr_ms": ms / 8, "ratio": ratio, "floor_ms": 0.0625, **more}

    times = [row("softmax", 256, 4.0, 1.0), row("momentum", 256, 2.0, 0.5, goal_ms=1.5), row("peer", 256, 1.0, 0.25)]
    times += [row("softmax", 512, 8.0, 1.0), row("momentum", 512, 3.0, 0.375)]
    record = {"command": "python scripts/benchmark_kernels.py", "date": "2026-11-22", "git_revision": "0123456789ab"}
    record |= {"hardware": {"device": "A processor", "threads": 1, "torch": "2.13.0"}, "times": times}
    record |= {"not_compared": {"another": "ImportError"}, "failed": {"peer, (8, 512, 2, 32)": "RuntimeError"}}
    lines = describe(record).splitlines()
    assert "| forward, D = 32: time / softmax's, N = | 256 | 512 |" in lines
    assert "| momentum | 0.50 | 0.38 |" in lines
    assert "| peer | 0.25 |  |" in lines
    assert "- Momentum's time over that of peer: forward 2.00 to 2.00." in lines
    assert "- Momentum, (16, 256, 2, 32), forward: 2.000 ms, aim 1.5, memory alone 0.062." in lines
    assert "- The middle half of the turns spans 12 % of the median time (median over all cells)." in lines
    assert "- Not compared: another (ImportError)." in lines
    assert "- Failed: peer, (8, 512, 2, 32) (RuntimeError)." in lines


def test_libraries_can_be_left_out():
    kinds, missing = benchmark_kernels.kinds_of(torch.device("cpu"), 0.6, libraries=False)
    assert kinds.keys() == {"softmax", "linear", "momentum"}
    assert set(missing.values()) == {"left out by --without-libraries"}


@pytest.mark.slow
def test_the_error_table_has_every_momentum_and_dtype_and_all_are_within_their_limit(tmp_path):
    result = run("scripts/kernel_errors.py", "--quick", "--out", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "kernel_errors.json").read_text(encoding="utf-8"))
    assert len(record["errors"]) == 3 * 2 * 7
    assert all(0 < row["relative_rms"] <= record["limits"][row["dtype"]] for row in record["errors"])
    assert record["float16_finite"]
    assert "0 of 42 errors are over their limit" in result.stdout
    assert (tmp_path / "kernel_errors.md").read_text(encoding="utf-8").count("\n| ") == 2 + 3 * 2  # heading, rule, lines


def test_the_error_table_has_a_line_for_each_dtype_and_length_with_its_limit():
    place = {"dtype": "bfloat16", "kernel": "triton"}
    errors = [
        {**place, "length": length, "momentum": momentum, "relative_rms": length * (1 + momentum) / 1e6}
        for length in (64, 1024)
        for momentum in kernel_errors.MOMENTA
    ]
    record = {"command": "python scripts/kernel_errors.py", "date": "2026-11-22", "git_revision": "0123456789ab"}
    record |= {"hardware": {"device": "A GPU"}, "errors": errors, "float16_finite": False, "float16_tokens": 1000}
    lines = kernel_errors.describe(record).splitlines()
    assert lines[0].startswith("Relative RMS error against float64, A GPU, 2026-11-22, revision 0123456789ab (`python ")
    assert lines[2].startswith("| dtype | kernel | N | β = 0 | β = 0.1 |") and lines[2].endswith("| β = 0.999 | limit |")
    assert lines[4].startswith("| bfloat16 | triton | 64 | 6.4e-05 | 7.0e-05 |") and lines[4].endswith("| 1.3e-04 | 4e-03 |")
    assert lines[5].startswith("| bfloat16 | triton | 1024 | 1.0e-03 |") and len(lines) == 8
    assert lines[7] == "float16, 1,000 tokens, β = 0.999: NOT every output is finite."


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("benchmark_kernels.py", ["--momentum", "1"], "--momentum 1.0: must be between 0 and 1"),
        ("benchmark_kernels.py", ["--device", "cuda"], "--device cuda: must be cpu, or cuda where torch finds a GPU"),
        ("benchmark_kernels.py", ["--device", "cpu", "--lengths", "77"], "--lengths [77]: no shape has one of them"),
        ("kernel_errors.py", ["--device", "cuda"], "--device cuda:"),
        ("tune_kernels.py", ["--quick", "--momentum", "1"], "--momentum 1.0: must be between 0 and 1"),
    ],
)
def test_what_cannot_run_is_refused(script, arguments, message):
    result = run(f"scripts/{script}", *arguments, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 2
    assert message in result.stderr
