"""Reading what fairseq-train logged as JSON (--log-format json --log-file): training and validation against updates."""

import json
import re
from pathlib import Path
from statistics import median
from typing import Any


def read_curve(log: Path) -> list[dict[str, float]]:
    """Loss, and accuracy where it was logged, after so many updates: of the training, means since the last such point, and of
    validations.

    A training that was stopped has gone on from its last checkpoint: what it had done since then is in the log twice, and the
    second time counts.

    Returns:
        Entries in the order of `updates`, with `loss` and `accuracy`, `valid_loss` and `valid_accuracy`, or all four.
    """
    points: dict[int, dict[str, float]] = {}
    for entry in entries(log):
        for prefix in ("", "valid_"):
            if f"{prefix}loss" in entry:
                point = points.setdefault(int(entry[f"{prefix}num_updates"]), {})
                names = [f"{prefix}{key}" for key in ("loss", "accuracy")]
                point.update({name: float(entry[name]) for name in names if name in entry})
    return [{"updates": updates, **points[updates]} for updates in sorted(points)]


def seconds_per_update(log: Path) -> float | None:
    """The median over the logged points, validations left out; None where no speed was logged."""
    speeds = [float(entry["ups"]) for entry in entries(log) if float(entry.get("ups", 0)) > 0]
    return round(1 / median(speeds), 4) if speeds else None


def entries(log: Path) -> list[dict[str, Any]]:
    """All that was logged, in order: points of the training, its epochs and its validations."""
    return [json.loads(line) for line in re.findall(r'^\{"epoch".*\}$', log.read_text(encoding="utf-8"), re.MULTILINE)]
