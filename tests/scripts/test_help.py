"""Every shell script that a user calls says what it takes, and does nothing else when asked to."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALL = [path for pattern in ("scripts/*.sh", "examples/*/*.sh") for path in sorted(ROOT.glob(pattern))]
CALLED = [path for path in ALL if path.read_text("utf-8").startswith("#!")]  # the others are sourced


@pytest.mark.parametrize("script", CALLED, ids=lambda path: str(path.relative_to(ROOT)))
def test_help_is_the_comment_at_the_top_of_the_script_and_nothing_is_done(script, tmp_path):
    command = {"args": ["bash", script, "--help"], "cwd": tmp_path, "env": {"PATH": "/usr/bin:/bin"}}
    result = subprocess.run(**command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""
    top = script.read_text("utf-8").split("\nsource")[0].splitlines()[1:]
    comment = [line.removeprefix("#").removeprefix(" ") for line in top]
    assert result.stdout.splitlines() == comment
    assert f"bash {script.relative_to(ROOT)}" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_script_is_here():
    assert len(CALLED) > 15 and ROOT / "scripts/quickstart.sh" in CALLED
