"""Files written whole or not at all: who reads one finds the old content or the new, never half of it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path, ending: str = ".part") -> Iterator[Path]:
    """A name beside `path` to write to; after the block what was written has the name `path`. The folder is made.

    It is on the disk before it gets its name, so that a power cut leaves no empty file. If the block fails, what was written is
    removed and `path` stays as it was.

    Args:
        ending: of the name to write to; another for each of several processes that may write the file at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ending)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON; what it has no form for, such as a path, as text."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")
