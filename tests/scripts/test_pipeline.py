"""The main job through its scripts, on a tiny generated corpus: prepare, train, translate, evaluate, table."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.scripts.commands import held, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess, subprocess.CompletedProcess]:
    """quickstart.sh run twice with few updates, as if set-up took long: its folder, the first run, the second."""
    folder = tmp_path_factory.mktemp("quickstart")
    made = run("scripts/generate_corpus.py", folder / "raw", "--pairs", 600)
    assert made.returncode == 0, made.stderr
    runs = [run("scripts/quickstart.sh", DATA=folder / "raw", OUT=folder / "out", MAX_UPDATE=6, SECONDS=1000) for _ in range(2)]
    for result in runs:
        assert result.returncode == 0, result.stdout + result.stderr
    return folder / "out", *runs


def test_the_quickstart_scores_a_translation_and_shows_each_step(quickstart):
    out, first, _ = quickstart
    assert "train: up to 6 updates or 4 minutes" in first.stdout
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert scores["updates"] == 6
    assert scores["scores"][0]["bleu_signature"].startswith("nrefs:1|case:mixed")
    assert {speed["batch"] for speed in scores["speeds"]} == {"1", "4096 tokens"}
    assert all(speed["subwords_per_second"] > 0 and len(speed["seconds_of_each_run"]) == 3 for speed in scores["speeds"])
    assert first.stdout.count("\n  source ") == first.stdout.count("\n  reference ") == first.stdout.count("\n  step 1 ") == 5
    assert scores["scores"][0]["bleu_signature"] in first.stdout


def test_a_second_quickstart_redoes_nothing(quickstart):
    out, first, second = quickstart
    assert "train: up to 6 updates" in first.stdout
    assert "train:" not in second.stdout
    assert "evaluate:" not in second.stdout
    assert second.stdout.endswith(first.stdout[first.stdout.index("five test sentences") :])


def test_every_sentence_that_goes_in_comes_out(quickstart):
    out, *_ = quickstart
    hypotheses = (out / "translation" / "test.hyp").read_text(encoding="utf-8")
    assert hypotheses.count("\n") == (out / "prepared" / "ref.test.de").read_text(encoding="utf-8").count("\n")


def test_evaluation_refuses_references_of_another_length(quickstart, tmp_path):
    out, *_ = quickstart
    for file in (out / "prepared").iterdir():
        (tmp_path / file.name).symlink_to(file)
    lines = (out / "prepared" / "ref.test.de").read_text(encoding="utf-8").split("\n")
    (tmp_path / "ref.test.de").unlink()
    (tmp_path / "ref.test.de").write_text("\n".join(lines[1:]), encoding="utf-8")
    checkpoint, result = out / "model" / "checkpoint_best.pt", tmp_path / "scores.json"
    flags = ["--splits", "test", "--steps", "1", "--lengths", "predicted", "--speed-runs", "0"]
    refused = run("scripts/evaluate.sh", *flags, DATA=tmp_path, CHECKPOINT=checkpoint, OUT=result)
    assert refused.returncode != 0
    assert f"{len(lines) - 2} sentences in, {len(lines) - 1} out; not scored" in refused.stderr
    assert not result.exists()


def test_the_table_has_a_mean_and_spread_over_seeds_and_refuses_other_files(quickstart, tmp_path):
    out, *_ = quickstart
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    for seed, bleu in enumerate((10.0, 12.0)):
        scores["scores"][0]["bleu"], scores["seed"] = bleu, seed
        (tmp_path / f"{seed}.json").write_text(json.dumps(scores), encoding="utf-8")
    table = run("scripts/table.py", tmp_path / "0.json", tmp_path / "1.json")
    assert "| quickstart, 2 seeds | 11.00 ± 1.41 |" in table.stdout
    (tmp_path / "2.json").write_text("{}", encoding="utf-8")
    assert "2.json: not a result of evaluate.py" in run("scripts/table.py", tmp_path / "2.json").stderr


def test_missing_or_wrong_settings_are_named(tmp_path):
    assert "DATA is not set" in run("scripts/train.sh", OUT=tmp_path, DATA="").stderr
    assert "no data-bin in it" in run("scripts/train.sh", OUT=tmp_path, DATA=tmp_path).stderr
    without_checkpoint = run("scripts/generate.sh", OUT=tmp_path, DATA=tmp_path, CHECKPOINT="none.pt")
    assert "CHECKPOINT=none.pt: no such file" in without_checkpoint.stderr
    assert "ROW=other: must be softmax" in run("examples/multi30k_en_de/run.sh", ROW="other").stderr


def test_a_killed_fairseq_generate_is_said_without_its_configuration(tmp_path):
    (tmp_path / "data-bin").mkdir()
    (tmp_path / "settings.txt").write_text("SOURCE_LANG=en\nTARGET_LANG=de\n")
    (tmp_path / "model.pt").touch()
    killed = "echo '2026-01-01 | INFO | fairseq_cli.generate | {the whole configuration}' >&2\necho why >&2\nkill -KILL $$\n"
    for name, script in (("python", ""), ("fairseq-generate", killed)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)
    variables = {"DATA": tmp_path, "CHECKPOINT": tmp_path / "model.pt", "OUT": tmp_path / "out", "MOMENTUM_ENV": tmp_path}
    result = run("scripts/generate.sh", **variables)
    assert "fairseq-generate was killed by SIGKILL (out of memory?)" in result.stderr and "why" in result.stderr
    assert "configuration" not in result.stderr


def test_a_folder_in_use_by_another_training_is_refused(quickstart, tmp_path):
    out, *_ = quickstart
    with held(tmp_path / ".lock"):
        refused = run("scripts/train.sh", DATA=out / "prepared", OUT=tmp_path)
    assert "another training is running there" in refused.stderr


@pytest.mark.parametrize("benchmark", ["decoding", "training"])
def test_the_model_benchmarks_compare_all_rows_in_one_run(benchmark, tmp_path):
    sizes = ["--embed-dim", 8, "--ffn-dim", 8, "--layers", 1, "--vocabulary", 50, "--words", 3, 5, "--runs", 1, "--steps", 2]
    rest = ["--batches", 1, 2] if benchmark == "decoding" else ["--sentences", 4]
    result = run(f"scripts/benchmark_{benchmark}.py", *sizes, *rest, "--cpu", "--out", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["rows"]
    assert {"softmax", "linear", "momentum", "connection", "adaptive"} < {row["row"] for row in rows}
    assert all(row["speed_ratio"] > 0 for row in rows)
