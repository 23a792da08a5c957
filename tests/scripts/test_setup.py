"""The set-up scripts, through their command lines, with a stand-in for Python that notes what it is asked to do."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.commands import held

ROOT = Path(__file__).resolve().parents[2]

# Answers as Python 3.12 does, makes an "environment" that is a copy of itself, and notes each pip call.
STAND_IN = """#!/bin/bash
case "$*" in
    -c*) echo 3.12 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "command = $0 $*" >"$3/pyvenv.cfg" ;;
    "-m pip install"*) echo "${@:5}" >>"$PIP_CALLS"; exit "${PIP_STATUS:-0}" ;;
esac
"""


class Setup:
    """A copy of the set-up scripts in a folder of its own, and the calls of pip they made."""

    def __init__(self, folder: Path) -> None:
        self.root, self.calls_file = folder / "repository", folder / "pip_calls"
        self.python = folder / "python3.12"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        (self.root / "scripts").mkdir(parents=True)
        for name in ("common.sh", "setup.sh"):
            shutil.copy(ROOT / "scripts" / name, self.root / "scripts")
        shutil.copy(ROOT / "requirements.txt", self.root)

    def run(self, **variables: str) -> subprocess.CompletedProcess:
        self.calls_file.write_text("")
        environment = {**os.environ, "PYTHON": str(self.python), "PIP_CALLS": str(self.calls_file), **variables}
        command = ["bash", str(self.root / "scripts/setup.sh")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def setup(tmp_path) -> Setup:
    return Setup(tmp_path)


def test_torch_is_installed_first_and_alone(setup):
    result = setup.run()
    assert result.returncode == 0, result.stderr
    first, second = setup.calls()
    assert first.split()[-1].startswith("torch==")
    assert "-r" not in first.split()
    assert second.endswith("requirements.txt")


def test_a_second_setup_does_nothing(setup):
    setup.run()
    result = setup.run()
    assert (result.returncode, result.stdout, setup.calls()) == (0, "", [])


def test_changed_requirements_make_the_environment_anew(setup):
    setup.run()
    with (setup.root / "requirements.txt").open("a") as file:
        file.write("another==1.0\n")
    setup.run()
    assert len(setup.calls()) == 2


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_in_a_checkout_that_was_moved_or_copied_the_environment_is_made_anew(setup, tmp_path, move):
    setup.run()
    setup.root = Path(move(setup.root, tmp_path / "another"))
    assert setup.run().returncode == 0
    assert len(setup.calls()) == 2
    link = tmp_path / "link"
    link.symlink_to(setup.root)
    setup.root = link
    assert (setup.run().stdout, setup.calls()) == ("", [])


def test_a_setup_that_failed_midway_is_done_again(setup):
    failed = setup.run(PIP_STATUS="1")
    assert failed.returncode != 0
    assert "pip install" in failed.stderr
    assert setup.run().returncode == 0
    assert len(setup.calls()) == 2


def test_an_interpreter_that_does_not_run_is_refused_by_name(setup):
    result = setup.run(PYTHON="/bin/false")
    assert result.returncode != 0
    assert "PYTHON=/bin/false" in result.stderr
    assert not (setup.root / ".venv").exists()


def test_without_a_fitting_python_the_error_says_which_are(setup, tmp_path):
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("bash", "cat", "dirname", "basename", "flock", "grep", "mkdir", "rm"):
        (commands / name).symlink_to(shutil.which(name))
    (commands / "python3").write_text("#!/bin/bash\nexit 127\n")  # a version manager's shim with nothing behind it
    (commands / "python3").chmod(0o755)
    result = setup.run(PYTHON="", PATH=str(commands))
    assert result.returncode != 0
    assert "no Python 3.11 or 3.12 found" in result.stderr


def test_a_shim_that_fails_is_passed_over(setup, tmp_path):
    shims, real = tmp_path / "shims", tmp_path / "real"
    for folder, text in ((shims, "#!/bin/bash\nexit 127\n"), (real, STAND_IN)):
        folder.mkdir()
        (folder / "python3.11").write_text(text)
        (folder / "python3.11").chmod(0o755)
    result = setup.run(PYTHON="", PATH=f"{shims}:{real}:{os.environ['PATH']}")
    assert result.returncode == 0, result.stderr
    assert "Python 3.12" in result.stdout


def test_a_given_environment_without_python_is_refused(tmp_path):
    script = f"source {ROOT}/scripts/common.sh; activate"
    environment = {**os.environ, "MOMENTUM_ENV": str(tmp_path)}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode != 0
    assert f"MOMENTUM_ENV={tmp_path}" in result.stderr


def test_an_environment_given_by_a_relative_path_holds_in_every_folder(tmp_path):
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    script = f"source {ROOT}/scripts/common.sh; activate; cd /; command -v python"
    environment = {**os.environ, "MOMENTUM_ENV": "env"}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == f"{python}\n", result.stderr


def fetch(out: Path, url: str, timeout: int = 30) -> subprocess.CompletedProcess:
    command = ["bash", str(ROOT / "scripts/fetch_multi30k.sh"), str(out)]
    environment = {**os.environ, "MULTI30K_URL": url}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def test_a_download_without_network_fails_with_a_message_and_leaves_nothing(tmp_path):
    result = fetch(tmp_path / "out", "http://127.0.0.1:9/nothing")
    assert result.returncode != 0
    assert "download failed" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.skipif(not shutil.which("curl"), reason="reads file:// through curl")
def test_a_download_of_another_text_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"Another text.\n"))
    result = fetch(tmp_path / "out", tmp_path.as_uri())
    assert result.returncode != 0
    assert "not the text expected" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_of_two_downloads_to_one_folder_the_second_waits_for_the_first(tmp_path):
    with held(tmp_path / ".lock"), pytest.raises(subprocess.TimeoutExpired):
        fetch(tmp_path, "http://127.0.0.1:9/nothing", timeout=3)


def test_every_requirement_is_pinned_and_the_torch_line_can_be_found():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all("==" in line.split("#")[0] for line in lines)
    assert sum(line.startswith("torch==") for line in lines) == 1
    assert sys.version_info[:2] in ((3, 11), (3, 12))
