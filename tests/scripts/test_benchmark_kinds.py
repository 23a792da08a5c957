"""The benchmark of all attention kinds, through its command line."""

import json
from pathlib import Path

import pytest
from benchmark_kinds import parse_arguments

from tests.scripts.commands import run

KINDS = {"softmax", "linear", "momentum", "nystrom"}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The text and the folder that a quick run wrote."""
    out = tmp_path_factory.mktemp("benchmark")
    result = run("scripts/benchmark_kinds.py", "--quick", "--threads", "1", "--kinds", *KINDS, "--out", str(out))
    assert result.returncode == 0, result.stderr
    return result.stdout, out


def test_a_run_measures_speed_and_memory_of_every_kind_in_every_part_at_every_length(quick):
    text, out = quick
    record = json.loads((out / "kinds.json").read_text(encoding="utf-8"))
    cells = {(row["part"], row["kind"], row["length"]) for row in record["measured"]}
    assert len(cells) == len(record["measured"]) == 3 * len(KINDS) * 3
    for row in record["measured"]:
        assert row["steps_per_second"] == pytest.approx(1e3 / row["median_ms"])
        assert row["peak_bytes"] > 0 and (row["kind"] != "softmax" or row["ratio"] == 1)
    assert {(row["part"], row["kind"]) for row in record["summary"]} == {cell[:2] for cell in cells}
    linear = [row for row in record["summary"] if row["kind"] in ("linear", "momentum")]
    assert all(row["memory_r_squared"] > 0.999 for row in linear)
    assert record["left_out"] == [] and "time / linear at most" in text
    assert {"command", "date", "git_revision", "hardware", "load_average"} <= record.keys()


def test_the_picture_can_be_drawn_again_from_the_record(quick, tmp_path):
    pytest.importorskip("matplotlib")
    assert (quick[1] / "kinds.png").read_bytes().startswith(b"\x89PNG")
    result = run("scripts/plot_kinds.py", str(quick[1] / "kinds.json"), str(tmp_path / "again.png"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again.png").read_bytes().startswith(b"\x89PNG")


def test_what_may_take_too_long_is_left_out_and_named(tmp_path):
    arguments = ["--quick", "--parts", "kind", "--kinds", "softmax", "--most-seconds", "1e-6", "--out", str(tmp_path)]
    result = run("scripts/benchmark_kinds.py", *arguments)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "kinds.json").read_text(encoding="utf-8"))
    assert [row["length"] for row in record["measured"]] == [64]
    assert [row["length"] for row in record["left_out"]] == [128, 256]
    assert "above --most-seconds 1e-06" in record["left_out"][0]["reason"]
    assert "left out: kind softmax at N = 128" in result.stdout


def test_bad_arguments_are_refused_by_name_and_value(tmp_path, capsys):
    for arguments, message in (
        (["--kinds", "sofmax"], "--kinds sofmax: no such attention kind; choose from softmax, linear"),
        (["--heads", "3"], "--embed-dim 64 is not a multiple of --heads 3"),
        (["--device", "abacus"], "--device abacus"),
    ):
        with pytest.raises(SystemExit):
            parse_arguments([*arguments, "--out", str(tmp_path)])
        assert message in capsys.readouterr().err
