"""Draw the trainings of the copy task: python scripts/plot_copy.py runs/copy/small examples/copy/results/small

Reads <METHOD>-seed<SEED>/train.log in the first folder; writes curves.json, curves.png and table.md to the second.
"""

import argparse
import re
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from common.checked_options import check_device, output_folder
from common.markdown_table import markdown
from common.panels import pyplot, save
from common.run_record import hardware, run_record, training_command, training_revisions
from common.train_log import entries
from common.whole_file import write_json, write_text

METHODS = ("softmax", "linear", "momentum", "connection", "adaptive")


class Point(NamedTuple):
    """What was logged after some updates: means since the last point, and the seconds that they and validations took."""

    updates: int
    seconds: float
    loss: float
    accuracy: float


class Training(NamedTuple):
    """One training. milliseconds: of an update, median over the points; folder: where it stands."""

    method: str
    seed: int
    points: list[Point]
    milliseconds: float
    folder: Path


def read(log: Path) -> Training:
    """The training of a log.

    A training that was stopped has gone on from its last checkpoint: what it had done since then is in the log twice. The
    seconds follow from the updates a second of each point, which leave out the start.

    Raises:
        ValueError: the folder has another name than a method and a seed, or no loss and speed was logged.
    """
    name = re.fullmatch(r"(\w+)-seed(\d+)", log.parent.name)
    if name is None or name[1] not in METHODS:
        raise ValueError(f"{log.parent}: the name must be <METHOD>-seed<SEED>, with one of the methods {', '.join(METHODS)}")
    # Those of a validation and of an epoch have names of their own: valid_loss, train_loss.
    logged = {int(entry["num_updates"]): entry for entry in entries(log) if "loss" in entry}
    speeds = {updates: float(entry["ups"]) for updates, entry in logged.items() if float(entry.get("ups", 0)) > 0}
    if not speeds:
        raise ValueError(f"{log}: no loss and speed in it; the training stopped before --log-interval updates")
    usual, points, seconds, before = median(speeds.values()), [], 0.0, 0
    for updates, entry in sorted(logged.items()):
        seconds += (updates - before) / speeds.get(updates, usual)
        before = updates
        points.append(Point(updates, seconds, float(entry["loss"]), float(entry["accuracy"])))
    return Training(name[1], int(name[2]), points, 1000 / usual, log.parent)


def averaged(trainings: list[Training]) -> list[Point]:
    """The mean of the seeds at the updates that all of them have logged."""
    by_updates = [{point.updates: point for point in training.points} for training in trainings]
    common = sorted(set.intersection(*map(set, by_updates)))
    return [Point(*map(mean, zip(*(points[updates] for points in by_updates), strict=True))) for updates in common]


def losses_at(trainings: list[Training], updates: float) -> list[float]:
    """The loss of each training after so many updates."""
    return [point.loss for training in trainings for point in training.points if point.updates == updates]


def table(methods: dict[str, list[Training]]) -> str:
    """A row for each method, in Markdown."""
    milliseconds = {method: mean(t.milliseconds for t in trainings) for method, trainings in methods.items()}
    header = ["method", "seeds", "updates", "loss (bits)", "of each seed", "accuracy %", "ms/update", "× linear"]
    rows = []
    for method, trainings in methods.items():
        last, time = averaged(trainings)[-1], milliseconds[method]
        ratio = f"{time / milliseconds['linear']:.2f}" if "linear" in methods else ""
        losses = ", ".join(f"{loss:.3f}" for loss in losses_at(trainings, last.updates))
        means = [f"{last.loss:.3f}", losses, f"{last.accuracy:.1f}"]
        rows.append([method, str(len(trainings)), f"{last.updates:.0f}", *means, f"{time:.1f}", ratio])
    return markdown(header, rows) + "\n"


def plot(curves: dict[str, list[Point]], path: Path) -> None:
    """Loss and accuracy against updates and against seconds, a line for each method; whole or not at all."""
    figure, panels = pyplot().subplots(2, 2, figsize=(10, 6.5), sharey="row", layout="constrained")
    for line, (value, label) in zip(panels, {"loss": "loss, bits", "accuracy": "accuracy, %"}.items(), strict=True):
        for panel, axis in zip(line, ("updates", "seconds"), strict=True):
            for method, points in curves.items():
                color = f"C{METHODS.index(method)}"
                panel.plot([getattr(p, axis) for p in points], [getattr(p, value) for p in points], color=color, label=method)
            panel.set(xlabel=axis, ylabel=label)
            panel.grid(alpha=0.3)
    panels[0][0].legend()
    save(figure, path)


def record_of(trainings: list[Training]) -> dict[str, Any]:
    """What curves.json says of a method: its seeds, what trained each of them, and the means of their points."""
    return {
        "seeds": [training.seed for training in trainings],
        "training_commands": [training_command(training.folder) for training in trainings],
        "training_revisions": [training_revisions(training.folder) for training in trainings],
        "points": [point._asdict() for point in averaged(trainings)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the trainings")
    parser.add_argument("results", type=output_folder, help="folder to write into")
    parser.add_argument("--device", default="cpu", help="which of this machine they were trained on (default: cpu)")
    options = parser.parse_args()
    check_device(parser, options)
    try:
        trainings = [read(log) for log in sorted(options.runs.glob("*/train.log"))]
    except (OSError, ValueError) as error:
        raise SystemExit(f"plot_copy.py: error: {error}") from error
    if not trainings:
        parser.error(f"no <METHOD>-seed<SEED>/train.log in {options.runs}; train with examples/copy/run.sh")
    methods = {method: own for method in METHODS if (own := [t for t in trainings if t.method == method])}
    record = {**run_record(sys.argv), **hardware(options.device), "methods": {m: record_of(own) for m, own in methods.items()}}
    write_json(options.results / "curves.json", record)
    write_text(options.results / "table.md", table(methods))
    plot({method: averaged(own) for method, own in methods.items()}, options.results / "curves.png")
    print(table(methods), end="")


if __name__ == "__main__":
    main()
