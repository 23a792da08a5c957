"""README's example of a new attention kind, as it stands there: one file, trained, translated and scored with."""

import json
import re
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from tests.scripts.commands import run
from tests.scripts.parallel_corpus import Corpus

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def example() -> str:
    """The indented block behind the name of the file that it is to stand in."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"`my_attention/__init__\.py`[^\n]*\n\n((?:    [^\n]*\n|\n)+)", text)
    return textwrap.dedent(block[1])


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The example's folder."""
    folder = tmp_path / "my_attention"
    folder.mkdir()
    (folder / "__init__.py").write_text(example(), encoding="utf-8")
    return folder


def test_it_trains_and_translates(plugin, train, fairseq: Callable[..., CompletedProcess], tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = train(tmp_path, 6, f"--user-dir={plugin}", "--attention=cosine")
    assert result.returncode == 0, result.stderr
    checkpoint = tmp_path / "checkpoint_last.pt"
    scales = [value for name, value in torch.load(checkpoint)["model"].items() if name.endswith("attention.scale")]
    assert scales and all((scale != 10).all() for scale in scales)  # every one was read and has learned
    result = fairseq("generate", f"--user-dir={plugin}", f"--path={checkpoint}")
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^H-\d+\t", result.stdout, re.MULTILINE)) == 30


def test_a_row_is_trained_and_scored_with_it_and_does_not_go_on_without(plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = Corpus(tmp_path / "raw", tmp_path / "prepared").prepare()
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    short = {"SIZE": "tiny", "MAX_UPDATE": 2, "VALIDATE_EVERY": 2, "SPEED_RUNS": 0, "DEVICE": "cpu"}
    short["SCORE_FLAGS"] = "--splits test --steps 2 --lengths predicted"
    places = {"DATA": "prepared", "MODEL": "model", "RESULT": "result.json"}
    row = partial(run, "scripts/run_row.sh", "--attention=cosine", ROW="softmax", ROW_NAME="cosine", **short, **places)
    first = row(USER_DIR="my_attention")
    assert first.returncode == 0, first.stdout + first.stderr
    text = Path("result.json").read_text(encoding="utf-8")
    result = json.loads(text)
    assert (result["name"], result["user_dir"], result["model"]["attention"]) == ("cosine", "my_attention", "cosine")
    assert str(tmp_path) not in text
    without = row()
    assert without.returncode != 0 and "< USER_DIR=my_attention" in without.stderr


def test_it_is_measured_beside_ours(plugin, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = ["--quick", "--parts", "attention", "--kinds", "linear", "cosine", "--user-dir", plugin, "--out", tmp_path]
    result = run("scripts/benchmark_kinds.py", *arguments)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "kinds.json").read_text(encoding="utf-8"))
    assert {row["kind"] for row in record["measured"]} == {"linear", "cosine"} and record["user_dir"] == "my_attention"
    refused = run("scripts/benchmark_kinds.py", *arguments[:-4], "--out", tmp_path)
    assert "--kinds cosine: no such attention kind" in refused.stderr
