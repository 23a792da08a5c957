"""The benchmark of step-by-step decoding, through its command line."""

import json
from pathlib import Path

import pytest
from benchmark_autoregressive import parse_arguments

from tests.scripts.commands import run


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The text and the folder that a quick run wrote."""
    out = tmp_path_factory.mktemp("benchmark")
    result = run("scripts/benchmark_autoregressive.py", "--quick", "--threads", "1", "--out", str(out))
    assert result.returncode == 0, result.stderr
    return result.stdout, out


def record_in(folder: Path) -> dict:
    return json.loads((folder / "autoregressive.json").read_text(encoding="utf-8"))


def test_a_run_times_every_kind_at_every_position_with_its_ratio_to_softmax(quick):
    rows = record_in(quick[1])["steps"]
    assert len({(row["kind"], row["search"], row["position"]) for row in rows}) == len(rows) == 3 * 2 * 2
    for row in rows:
        assert 0 < row["min_ms"] <= row["median_ms"] and row["iqr_ms"] >= 0 and row["peak_bytes"] > 0
        assert row["kind"] != "softmax" or row["ratio"] == 1
        assert row["position"] != 16 or row["over_first"] == 1
    assert "momentum   word 128 takes" in quick[0]


def test_the_state_of_linear_and_momentum_attention_is_the_same_at_every_position(quick):
    """Two heads of 16: s (and m) 16 × 16 and z 16 of each, four bytes a number."""
    expected = {"linear": 4 * 2 * (16 * 16 + 16), "momentum": 4 * 2 * (2 * 16 * 16 + 16)}
    for row in record_in(quick[1])["steps"]:
        if row["kind"] in expected:
            assert row["state_bytes"] == row["hypotheses"] * expected[row["kind"]]
        else:
            assert row["state_bytes"] >= row["hypotheses"] * row["position"] * 2 * 32 * 4


def test_the_record_says_what_made_it(quick):
    record = record_in(quick[1])
    assert record["command"].startswith("python scripts/benchmark_autoregressive.py --quick")
    assert {"date", "git_revision", "hardware", "load_average", "freed_memory_kept", "embed_dim"} <= record.keys()


def test_the_picture_can_be_drawn_again_from_the_record(quick, tmp_path):
    pytest.importorskip("matplotlib")
    assert (quick[1] / "autoregressive.png").read_bytes().startswith(b"\x89PNG")
    result = run("scripts/plot_autoregressive.py", str(quick[1] / "autoregressive.json"), str(tmp_path / "again.png"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--kinds", "sofmax"], "invalid choice: 'sofmax'"),
        (["--positions", "8", "0"], "'0' is not a whole number of at least 1"),
        (["--heads", "3"], "--embed-dim 32 is not a multiple of --heads 3"),
        (["--seconds", "0"], "'0' is not a positive number of seconds"),
        (["--device", "abacus"], "--device abacus"),
        (["--device", "meta"], "--device meta: peak memory is measured on cpu and cuda only"),
        (["--out", "{file}"], "--out"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, message, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as exit_:
        parse_arguments(["--quick", *(argument.format(file=file) for argument in arguments)])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
