"""Scripts and recipes, called as a user calls them."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of Python or the shell by its path in the repository, in the environment that runs the tests."""
    settings = {"MOMENTUM_ENV": sys.prefix, "OMP_NUM_THREADS": "1", **variables}
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    command = ["bash" if script.endswith(".sh") else sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """The lock is held, as while another run goes on."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
