"""The rows of the translation tables: what each trains and scores with, where it goes on, what it refuses."""

import json
import sys
from pathlib import Path

import hours_trained
import pytest
import torch
import updates_trained

from tests.scripts.commands import run


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated corpus under Multi30k's names."""
    folder = tmp_path_factory.mktemp("raw")
    made = run("scripts/generate_corpus.py", folder, "--pairs", 200)
    assert made.returncode == 0, made.stderr
    for split, name in (("val", "val"), ("test", "test_2016_flickr")):
        for language in ("en", "de"):
            lines = (folder / f"{split}.{language}").read_text(encoding="utf-8").splitlines()[:20]
            (folder / f"{name}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_row_goes_from_data_to_json_and_a_second_call_redoes_nothing(raw, tmp_path):
    settings = {"CORPUS": "multi30k", "DISTILLED": 0, "PRESET": "published-code", "SIZE": "tiny", "ROW": "adaptive", "SEED": 3}
    settings["ROW_NAME"] = "mine"
    places = {"DATA": raw, "RUNS": tmp_path / "runs", "RESULTS": tmp_path / "results", "BPE_OPERATIONS": 50}
    short = {"MAX_UPDATE": 4, "VALIDATE_EVERY": 2, "SPEED_RUNS": 0, "SCORE_FLAGS": "--splits test --steps 2"}
    row, kept = "examples/iwslt16_en_de/run.sh", ("--keep-interval-updates", 2)
    first, second = (run(row, *kept, **settings, **places, **short) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    result = json.loads((tmp_path / "results" / "published-code-raw-mine-seed3.json").read_text(encoding="utf-8"))
    assert (result["name"], result["seed"], result["updates"] <= 4, result["max_update"]) == ("mine", 3, True, 4)
    assert result["task"]["denoising_probability"] == 0
    assert result["model"]["connection"] == "adaptive"
    assert result["model"]["connection_ratio"] == "velocity"
    assert result["collapse_repeats"] and [s["lengths"] for s in result["scores"]] == ["oracle"]
    assert result["data"]["corpus"] == "Multi30k" and not result["data"]["distilled"]
    assert len(result["training_revisions"]) == 1
    assert "is trained, nothing to do" in second.stdout and "stands, nothing to do" in second.stdout
    model = tmp_path / "runs" / "multi30k" / "tiny-published-code-raw-mine-seed3"
    command = (model / "command.txt").read_text(encoding="utf-8")
    assert "--oracle-length" in command and "--collapse-repeats" in command  # the best one is chosen as it is scored
    for change, said in (({"LR": 1}, "> LR=1"), ({"DATA": "none"}, "none")):
        refused = run(row, *kept, **{**settings, **places, **short, **change})
        assert refused.returncode != 0 and said in refused.stderr, refused.stderr
    refused = run(row, "--dropout", 0.5, **settings, **places, **short)
    assert "was trained with other settings" in refused.stderr and "> flags '--dropout' '0.5'" in refused.stderr
    rescored = run(row, **settings, **places, **{**short, "SCORE_FLAGS": "--splits test --steps 3"})
    assert "is trained, nothing to do" in rescored.stdout and "steps 3" in rescored.stdout
    file = tmp_path / "results" / "published-code-raw-mine-seed3.json"
    prepared = {"DATA": tmp_path / "runs" / "multi30k" / "prepared", "MODEL": model, "RESULT": file, "STAGES": "evaluate"}
    last = {**short, "SCORE_FLAGS": "--splits test --steps 3", "ROW_NAME": "other"}
    renamed = run("scripts/run_row.sh", **{**settings, **prepared, **last})
    assert json.loads(file.read_text(encoding="utf-8"))["name"] == "other", renamed.stdout + renamed.stderr
    averaged = run(row, **settings, **places, **short, AVERAGE=2, LENGTH_BEAM=3)
    assert averaged.returncode == 0, averaged.stdout + averaged.stderr
    file = tmp_path / "results" / "published-code-raw-mine-seed3-average2-beam3.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    assert (result["name"], result["length_beam"], result["rescored"]) == ("mine, 2 averaged", 3, False)
    too_many = run(row, **settings, **places, **short, AVERAGE=3)
    assert "AVERAGE=3: 2 checkpoints are kept" in too_many.stderr and too_many.returncode != 0


def test_wrong_settings_are_named(tmp_path):
    given = {"DATA": tmp_path, "MODEL": tmp_path / "model", "RESULT": tmp_path / "a.json"}
    row = "scripts/run_row.sh"
    assert "set DATA (prepared folder), MODEL" in run(row, ROW="softmax", DATA="").stderr
    assert "ROW=other: must be softmax" in run(row, ROW="other", **given).stderr
    assert "SIZE=huge: must be tiny" in run(row, ROW="linear", SIZE="huge", **given).stderr
    assert "AVERAGE=1: must be 0, or 2 or more" in run(row, ROW="linear", AVERAGE=1, **given).stderr
    assert "PRESET=mine: must be paper" in run(row, ROW="linear", PRESET="mine", **given).stderr
    assert "MAX_MINUTES=long: must be a number" in run(row, ROW="linear", MAX_MINUTES="long", **given).stderr
    assert "distill.sh trains it" in run(row, ROW="teacher", **given).stderr
    assert f"DATA={tmp_path}: no data-bin in it" in run(row, ROW="linear", **given).stderr
    assert not (tmp_path / "model").exists()  # what a training is noted to have begun with
    assert "no checkpoint_best.pt in it; train it first" in run(row, ROW="linear", STAGES="evaluate", **given).stderr
    for example in ("iwslt16_en_de", "multi30k_en_de"):
        assert "ROW=other: must be softmax" in run(f"examples/{example}/run.sh", ROW="other", RUNS=tmp_path).stderr
    refused = run("examples/iwslt16_en_de/run.sh", ROW="linear", CORPUS="mine", RUNS=tmp_path)
    assert "CORPUS=mine: must be iwslt16, ted_mix or multi30k" in refused.stderr


def test_a_time_limit_counts_from_now(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hours_trained.py", str(tmp_path), "--and-minutes", "6"])
    hours_trained.main()
    assert float(capsys.readouterr().out) == pytest.approx(0.1)
    torch.save({"extra_state": {"previous_training_time": 7200.0}}, tmp_path / "checkpoint_last.pt")
    hours_trained.main()
    assert float(capsys.readouterr().out) == pytest.approx(2.1)


@pytest.mark.parametrize("content", [b"no checkpoint", b""])
def test_the_time_of_a_damaged_checkpoint_is_refused_by_its_name(tmp_path, monkeypatch, content):
    (tmp_path / "checkpoint_last.pt").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["hours_trained.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"checkpoint_last.pt: not a checkpoint of fairseq that loads safely"):
        hours_trained.main()


def test_the_updates_of_a_training_are_those_of_its_last_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["updates_trained.py", str(tmp_path)])
    updates_trained.main()
    torch.save({"cfg": {}, "optimizer_history": [{"num_updates": 3}, {"num_updates": 7}]}, tmp_path / "checkpoint_last.pt")
    updates_trained.main()
    assert capsys.readouterr().out.split() == ["0", "7"]
