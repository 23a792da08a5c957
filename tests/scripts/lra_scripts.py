"""The scripts that prepare the Long Range Arena, called in this process: importing torch anew would take longer than they do."""

import hashlib
import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
STEPS = {
    "generate_listops": "generate",
    "generate_pathfinder": "generate",
    "import_listops": "import_set",
    "import_imdb": "import_set",
    "import_cifar10_grey": "import_set",
    "import_aan": "import_set",
    "lra_report": "report",
}


def call(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object, **keywords: object) -> int | str:
    """Runs the script as its command line does; its exit status, or the error that it ends with."""
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / f"{script}.py"), *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        module.run_step(lambda: getattr(module, STEPS[script])(module.parse_options(), **keywords))
    return stopped.value.code


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of each array of a prepared folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.npy"))}
