"""The attention benchmark, through its command line."""

import json
from pathlib import Path

import benchmark_attention
import pytest

from tests.scripts.commands import run


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The text and the folder that a quick run wrote."""
    out = tmp_path_factory.mktemp("benchmark")
    result = run("scripts/benchmark_attention.py", "--quick", "--threads", "1", "--out", str(out))
    assert result.returncode == 0, result.stderr
    return result.stdout, out


def test_a_run_times_every_kind_at_every_length_with_its_ratio_to_softmax(quick):
    text, out = quick
    record = json.loads((out / "attention.json").read_text(encoding="utf-8"))
    cells = {(row["kind"], row["pass"], row["mask"], row["length"]) for row in record["times"]}
    assert len(cells) == len(record["times"]) == 4 * 2 * 2 * 3
    for row in record["times"]:
        assert 0 < row["min_ms"] <= row["median_ms"] and row["iqr_ms"] >= 0
        assert row["kind"] != "softmax" or row["ratio"] == 1
    assert "momentum / softmax is at most" in text


def test_a_run_measures_memory_that_grows_with_the_length(quick):
    record = json.loads((quick[1] / "attention.json").read_text(encoding="utf-8"))
    assert len(record["memory"]) == 4 * 2
    for row in record["memory"]:
        assert row["peak_bytes"] == sorted(row["peak_bytes"]) and row["peak_bytes"][0] > 0
        assert 0.9 < row["r_squared_against_length"] <= 1


def test_the_record_says_what_made_it(quick):
    record = json.loads((quick[1] / "attention.json").read_text(encoding="utf-8"))
    assert record["command"].startswith("python scripts/benchmark_attention.py --quick")
    assert {"date", "git_revision", "hardware", "load_average", "freed_memory_kept"} <= record.keys()
    assert {"device", "threads", "torch", "python"} <= record["hardware"].keys()


def test_the_picture_can_be_drawn_again_from_the_record(quick, tmp_path):
    pytest.importorskip("matplotlib")
    assert (quick[1] / "attention.png").read_bytes().startswith(b"\x89PNG")
    result = run("scripts/plot_attention.py", str(quick[1] / "attention.json"), str(tmp_path / "again.png"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again.png").read_bytes().startswith(b"\x89PNG")


def test_features_are_timed_on_numbers_of_both_signs(tmp_path, monkeypatch):
    """Of positive numbers alone elu + 1 takes no exponential."""
    least = {}

    def recorder(kind):
        def attention(q, k, v, mask, numbers):
            least[kind] = min(q.min().item(), k.min().item())
            return v

        return attention

    monkeypatch.setattr(benchmark_attention, "KINDS", {kind: recorder(kind) for kind in benchmark_attention.KINDS})
    options = benchmark_attention.parse_arguments(["--quick", "--passes", "forward", "--out", str(tmp_path)])
    benchmark_attention.run_times(options, {})
    assert least.pop("momentum+features") < 0 < min(least.values())


def test_a_causal_run_times_attention_that_reads_no_later_key(tmp_path):
    arguments = ["--quick", "--causal", "--kinds", "softmax", "momentum", "--out", str(tmp_path)]
    options = benchmark_attention.parse_arguments(arguments)
    numbers = {"momentum": 0.6, "step_size": 1.0}
    inputs = benchmark_attention.make_inputs(options, 2, 8, 16, "none", "forward", mapped=True)
    for kind in options.kinds:
        out = benchmark_attention.make_call(benchmark_attention.CAUSAL_KINDS[kind], inputs, "forward", numbers)()
        inputs.v[:, :, -1] += 1
        after = benchmark_attention.make_call(benchmark_attention.CAUSAL_KINDS[kind], inputs, "forward", numbers)()
        assert out[:, :, :-1].equal(after[:, :, :-1]) and not out[:, :, -1].equal(after[:, :, -1])
    rows = benchmark_attention.run_times(options, numbers)
    assert {row["kind"] for row in rows} == {"softmax", "momentum"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--kinds", "sofmax"], "invalid choice: 'sofmax'"),
        (["--lengths", "8", "0"], "'0' is not a whole number of at least 1"),
        (["--dims", "-3"], "'-3' is not a whole number of at least 1"),
        (["--tokens", "many"], "'many' is not a whole number of at least 1"),
        (["--seconds", "0"], "'0' is not a positive number of seconds"),
        (["--momentum", "1"], "momentum must be in [0, 1), got 1.0"),
        (["--step-size", "0"], "step_size must be positive and finite, got 0.0"),
        (["--device", "abacus"], "--device abacus"),
        (["--device", "meta"], "--device meta: peak memory is measured on cpu and cuda only"),
        (["--out", "{file}"], "--out"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, message, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as exit_:
        benchmark_attention.parse_arguments(["--quick", *(argument.format(file=file) for argument in arguments)])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
