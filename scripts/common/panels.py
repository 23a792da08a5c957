"""What the plots have in common: matplotlib without a display, panels over a length, a picture written whole or not at all."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.whole_file import whole_file, write_json


def pyplot() -> Any:
    """matplotlib.pyplot; ModuleNotFoundError where it is not installed."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq sets all loggers to DEBUG
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def logarithmic(panel: Any, **labels: str) -> None:
    """Both axes of a panel logarithmic, with a grid and these labels."""
    panel.set(xscale="log", yscale="log", **labels)
    panel.grid(alpha=0.3)


def setting(record: dict[str, Any]) -> str:
    """The hardware and the dtype of a record, for a title."""
    return f"{record['hardware']['device']}, {record['hardware']['threads']} threads, {record['dtype']}"


def save(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write the picture as PNG and close it."""
    with whole_file(path) as part:
        figure.savefig(part, dpi=dpi, format="png")
    pyplot().close(figure)


def write(record: dict[str, Any], path: Path, plot: Callable[[dict[str, Any], Path], None]) -> None:
    """A benchmark's JSON, and beside it its picture where matplotlib is installed."""
    write_json(path, record)
    print(f"\nwritten: {path}")
    try:
        plot(record, path.with_suffix(".png"))
        print(f"written: {path.with_suffix('.png')}")
    except ModuleNotFoundError as error:
        print(f"no plot: {error.name} is not installed")


def main(plot: Callable[[dict[str, Any], Path], None], usage: str | None) -> None:
    """The command line of a plot: the JSON and the PNG."""
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: {usage}")
    source = sys.argv[1]
    try:
        record = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {source}: not the JSON of a benchmark ({error})") from error
    try:
        plot(record, Path(sys.argv[2]))
    except (KeyError, TypeError) as error:
        raise SystemExit(f"error: {source}: the JSON of something else ({error!r}). {usage}") from error
