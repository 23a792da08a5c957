"""The first steps of the quickstart; test_pipeline.py runs all of it."""

from pathlib import Path

import pytest

from tests.scripts.commands import run


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment whose Python notes what it is called with, and fails."""
    python = tmp_path / "environment/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexit 1\n')
    python.chmod(0o755)
    return python.parents[1]


@pytest.mark.parametrize(("files", "made_anew"), [(["val.en", "train.en"], True), (["val.en", "train.en", "train.de"], False)])
def test_a_corpus_of_which_half_was_generated_is_generated_again(environment, tmp_path, files, made_anew):
    generated = tmp_path / "out/generated"
    generated.mkdir(parents=True)
    for name in files:
        (generated / name).touch()
    result = run("scripts/quickstart.sh", OUT=tmp_path / "out", DATA="", MOMENTUM_ENV=environment, MULTI30K_URL="file:///none")
    calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    assert result.returncode != 0 and ("generate_corpus.py" in calls) == made_anew
