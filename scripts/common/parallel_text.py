"""What the steps of prepare_parallel.sh share: lines read strictly, errors that name their place, the report."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

Report = dict[str, Any]
SPLITS = ("train", "valid", "test")


class InputError(Exception):
    """Something the user can repair: the message names the file, the line or the value."""


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a UTF-8 file; a line feed, alone or after a carriage return, is the only line end.

    Other separators that `str.splitlines` honours (U+0085, U+2028, form feed, …) stay inside their line: crawled text
    has them in the middle of sentences, and splitting there would shift every later pair.

    Raises:
        InputError: the file is missing, empty, or not UTF-8.
    """
    return decode_lines(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """Reads a file.

    Raises:
        InputError: it is missing.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def decode_lines(place: Path | str, data: bytes) -> list[str]:
    """What `read_lines` makes of a file's bytes; `place` names them in errors.

    Raises:
        InputError: there are none, or they are not UTF-8.
    """
    raw_lines = data.split(b"\n")
    if not raw_lines[-1]:
        raw_lines.pop()
    if not raw_lines:
        raise InputError(f"{place}: the file is empty")
    lines = []
    for number, raw in enumerate(raw_lines, start=1):
        try:
            lines.append(raw.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            bad_byte = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}"
            raise InputError(f"{place}:{number}: invalid UTF-8 ({bad_byte}); convert the file to UTF-8") from None
    lines[0] = lines[0].removeprefix("\ufeff")
    return lines


def read_parallel(prefix: Path, languages: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Reads `prefix.<language>` of both languages.

    Raises:
        InputError: either can't be read, or they have not the same number of lines.
    """
    paths = [Path(f"{prefix}.{language}") for language in languages]
    source, target = (read_lines(path) for path in paths)
    if len(source) != len(target):
        counts = f"{paths[0]} has {len(source):,} lines, {paths[1]} has {len(target):,}"
        raise InputError(f"{counts}; line n of one must translate line n of the other")
    return source, target


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes lines in UTF-8, each ended by a line feed."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def read_report(path: Path) -> Report:
    """Reads what an earlier step counted."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_report(path: Path, report: Report) -> None:
    """Writes what was counted, as JSON with one number a line."""
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def run(step: Callable[[], None]) -> NoReturn:
    """Runs a step; what the user can repair, or a full disk, is said in one line and exits with 1."""
    try:
        step()
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = error.filename or "writing"
        sys.exit(f"error: {place}: {error.strerror}; free some space or check the folder, then run again")
    sys.exit(0)
