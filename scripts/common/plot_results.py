"""Pictures of results: BLEU against decoder passes, BLEU against speed, speed against length."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from common.panels import pyplot, save
from common.results import Row

Draw = Callable[[Any, list[Row], str], None]


def plot(rows: list[Row], file: Path) -> None:
    """Draw the panels that there are figures for, on the last set, whole or not at all."""
    split = [key for row in rows for result in row.results for key in result.scores][-1][0]
    speeds = [speed for row in rows for result in row.results for speed in result["speeds"]]
    panels: list[Draw] = [bleu_against_steps]
    if speeds:
        panels.append(bleu_against_speed)
    if any("by_length" in speed for speed in speeds):
        panels.append(speed_against_length)
    figure, axes = pyplot().subplots(1, len(panels), figsize=(6 * len(panels), 4), squeeze=False, layout="constrained")
    for draw, panel in zip(panels, axes[0], strict=True):
        draw(panel, rows, split)
    axes[0][0].legend()
    save(figure, file, dpi=120)


def means(pairs: list[tuple[Any, float]]) -> dict[Any, float]:
    """The mean of all values of a key, in the order of the keys."""
    groups = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return {key: mean(groups[key]) for key in sorted(groups)}


def bleu_against_steps(panel: Any, rows: list[Row], split: str) -> None:
    """A line for each row, predicted (solid) and oracle (dashed) length; a beam, which has no steps, is a dotted level."""
    for color, row in enumerate(rows):
        scores = [s for result in row.results for s in result.scores.values() if s["split"] == split]
        label = row.label
        for lengths, style in (("predicted", "-"), ("oracle", "--")):
            own = [s for s in scores if s["lengths"] == lengths]
            points = means([(int(s["steps"]), s["bleu"]) for s in own if s["steps"].isdigit()])
            if points:
                panel.plot(points.keys(), points.values(), style, color=f"C{color}", marker="o", label=label)
                label = None
            for level in means([(s["steps"], s["bleu"]) for s in own if s["steps"].startswith("beam")]).values():
                panel.axhline(level, linestyle=":", color=f"C{color}", label=label)
                label = None
    panel.set(xlabel="decoder passes", ylabel=f"BLEU, {split}", title="solid: predicted length, dashed: oracle length")


def bleu_against_speed(panel: Any, rows: list[Row], split: str) -> None:
    """A point for each row and number of passes, at batch 1."""
    for color, row in enumerate(rows):
        for result in row.results:
            speeds = [s for s in result["speeds"] if s["batch"] == "1"]
            keys = [(s["split"], s.get("lengths", "predicted"), s["steps"]) for s in speeds]
            points = [(s["subwords_per_second"], result.scores[k]["bleu"], s["steps"]) for s, k in zip(speeds, keys, strict=True)]
            panel.plot([p[0] for p in points], [p[1] for p in points], "o", color=f"C{color}", alpha=0.7)
            for x, y, steps in points:
                panel.annotate(steps, (x, y), textcoords="offset points", xytext=(4, 3), fontsize=7)
    panel.set(xscale="log", xlabel="sub-words/s, batch 1", ylabel=f"BLEU, {split}", title="number: decoder passes")


def speed_against_length(panel: Any, rows: list[Row], split: str) -> None:
    """A line for each row at batch 1, by the source's length, after the most passes."""
    for color, row in enumerate(rows):
        speeds = [s for result in row.results for s in result["speeds"] if "by_length" in s]
        if not speeds:
            continue
        steps = max({s["steps"] for s in speeds}, key=lambda steps: int(steps) if steps.isdigit() else 0)
        classes = [c for s in speeds if s["steps"] == steps for c in s["by_length"]]
        points = means([(mean(c["source_subwords"]), c["subwords_per_second"]) for c in classes])
        panel.plot(points.keys(), points.values(), "o-", color=f"C{color}")
        panel.annotate(steps, (list(points)[-1], list(points.values())[-1]), fontsize=7)
    panel.set(yscale="log", xlabel="sub-words in the source", ylabel="sub-words/s, batch 1", title="number: decoder passes")
