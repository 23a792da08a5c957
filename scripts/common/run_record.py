"""What every result file says of the run that made it: command, date, git revision, hardware."""

import datetime
import os
import platform
import shlex
import subprocess
from pathlib import Path
from typing import Any

import torch

from common import ROOT


def run_record(command: list[str], user_dir: Path | None = None) -> dict[str, str]:
    """The command with paths relative to the repository, those elsewhere by name only; the date; the git revision; the name of
    the plug-in where it isn't ours.
    """
    return {
        "command": shlex.join(["python", *map(without_folders, [os.path.realpath(command[0]), *map(str, command[1:])])]),
        "date": datetime.date.today().isoformat(),
        "git_revision": git_revision(),
        **plugin_record(user_dir),
    }


def plugin_record(user_dir: Path | None) -> dict[str, str]:
    """The name of the plug-in of --user-dir; nothing where it is ours."""
    return {} if user_dir is None else {"user_dir": user_dir.name}


def without_folders(word: str) -> str:
    """A word of a command line without the folders of this machine, which say nothing to others; links are followed to ROOT."""
    if not os.path.isabs(word):
        return word
    inside = [path for path in (Path(word), Path(word).resolve()) if path.is_relative_to(ROOT)]
    return str(inside[0].relative_to(ROOT)) if inside else f".../{Path(word).name}"


def git_revision() -> str:
    """The commit of this tree, `-dirty` behind it where tracked files differ.

    Outside a checkout, and in one of something else, what the variable MOMENTUM_REVISION says, or `unknown`.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "scripts/common/run_record.py")
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("MOMENTUM_REVISION", "unknown")


def training_record(checkpoint: Path) -> dict[str, Any]:
    """Updates of a checkpoint, those its training has had and was to have, and where noted the revisions that trained it."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    last = checkpoint.parent / "checkpoint_last.pt"
    newest = torch.load(last, map_location="cpu", weights_only=True, mmap=True) if last.is_file() else state
    return {
        "updates": state["optimizer_history"][-1]["num_updates"],
        "last_update": newest["optimizer_history"][-1]["num_updates"],
        "max_update": state["cfg"]["optimization"]["max_update"],
        "training_revisions": training_revisions(checkpoint.parent),
    }


def training_revisions(folder: Path) -> list[str]:
    """The revisions that trained in a folder, as common.sh's note_revision notes them there; none where it hasn't."""
    noted = folder / "revision.txt"
    return noted.read_text(encoding="utf-8").split() if noted.is_file() else []


def training_command(folder: Path) -> str | None:
    """The command in a training folder's command.txt, without the folders of this machine; None where none was noted."""
    noted = folder / "command.txt"
    return shlex.join(map(without_folders, shlex.split(noted.read_text(encoding="utf-8")))) if noted.is_file() else None


def hardware(device: torch.device) -> dict[str, Any]:
    """The processor or GPU, threads, and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name as the system tells it, with the number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
