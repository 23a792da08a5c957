"""README's example of a new attention kind, as it stands there: one file, trained and translated with."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def example() -> str:
    """The indented block behind the name of the file that it is to stand in."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"`my_attention/__init__\.py`[^\n]*\n\n((?:    [^\n]*\n|\n)+)", text)
    return textwrap.dedent(block[1])


def test_the_example_of_a_new_kind_trains_and_translates(train, fairseq: Callable[..., CompletedProcess], tmp_path, monkeypatch):
    plugin = tmp_path / "my_attention"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(example(), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = train(tmp_path, 6, f"--user-dir={plugin}", "--attention=cosine")
    assert result.returncode == 0, result.stderr
    checkpoint = tmp_path / "checkpoint_last.pt"
    scales = [value for name, value in torch.load(checkpoint)["model"].items() if name.endswith("attention.scale")]
    assert scales and all((scale != 10).all() for scale in scales)  # every one was read and has learned
    result = fairseq("generate", f"--user-dir={plugin}", f"--path={checkpoint}")
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^H-\d+\t", result.stdout, re.MULTILINE)) == 30
