"""Make Markdown tables, and with --plot a picture, from the JSON files that evaluate.py wrote.

BLEU of each row after each number of steps, one table for each set and kind of length, and the speeds.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Result = dict[str, Any]


def read_results(files: list[Path]) -> dict[str, list[Result]]:
    """Row name → its results (one a seed), rows in the order of the files."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for file in files:
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            result["scores"], result["speeds"], rows[result["name"]].append(result)
        except (OSError, ValueError, KeyError) as error:
            raise SystemExit(f"error: {file}: not a result of evaluate.py ({error!r})") from error
    return rows


def in_order(values: list[str]) -> list[str]:
    """Each value once, in the order of the first appearance."""
    return list(dict.fromkeys(values))


def cell(values: list[float], digits: int) -> str:
    """The mean, ± the standard deviation over seeds where there are several; empty where nothing was run."""
    if not values:
        return ""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def markdown(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


def score_table(rows: dict[str, list[Result]], split: str, lengths: str, metric: str = "bleu") -> str:
    """Rows × steps of one metric on one set."""
    scores = [s for results in rows.values() for r in results for s in r["scores"]]
    steps = in_order([s["steps"] for s in scores])
    lines = []
    for name, results in rows.items():
        chosen = [s for r in results for s in r["scores"] if (s["split"], s["lengths"]) == (split, lengths)]
        lines.append([name, *(cell([s[metric] for s in chosen if s["steps"] == step], 2) for step in steps)])
    return markdown([f"{metric} {split}, {lengths} length", *steps], lines)


def speed_table(rows: dict[str, list[Result]]) -> str:
    """Rows × (batch, steps): target sub-words and sentences a second."""
    speeds = [s for results in rows.values() for r in results for s in r["speeds"]]
    kinds = in_order([(s["batch"], s["steps"]) for s in speeds])
    lines = []
    for name, results in rows.items():
        line = [name]
        for kind in kinds:
            chosen = [s for r in results for s in r["speeds"] if (s["batch"], s["steps"]) == kind]
            words, sentences = (cell([s[f"{unit}_per_second"] for s in chosen], 0) for unit in ("subwords", "sentences"))
            line.append(f"{words} ({sentences})" if words else "")
        lines.append(line)
    return markdown(["sub-words/s (sentences/s)", *(f"batch {batch}, steps {steps}" for batch, steps in kinds)], lines)


def conditions(rows: dict[str, list[Result]]) -> str:
    """What the figures were made with: one line for each different setting, and the signatures."""
    results = [r for group in rows.values() for r in group]
    what = "{date}, {device}, {threads} threads, {updates} updates, revision {git_revision}"
    lines = in_order([what.format(**r) for r in results])
    scores = [s for r in results for s in r["scores"]]
    lines += in_order([f"BLEU {s['bleu_signature']}" for s in scores] + [f"chrF {s['chrf_signature']}" for s in scores])
    return "\n".join(f"- {line}" for line in lines)


def plot(rows: dict[str, list[Result]], split: str, file: Path) -> None:
    """BLEU against the number of steps, predicted (solid) and oracle (dashed) length."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for color, (name, results) in enumerate(rows.items()):
        for lengths, style in (("predicted", "-"), ("oracle", "--")):
            points: dict[int, list[float]] = defaultdict(list)
            for score in (s for r in results for s in r["scores"]):
                if (score["split"], score["lengths"]) == (split, lengths) and score["steps"].isdigit():
                    points[int(score["steps"])].append(score["bleu"])
            label = name if lengths == "predicted" else None
            axes.plot(list(points), [mean(p) for p in points.values()], style, color=f"C{color}", marker="o", label=label)
    axes.set(xlabel="decoder passes", ylabel=f"BLEU, {split}", title="solid: predicted length, dashed: oracle length")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw BLEU on the last set against the steps")
    options = parser.parse_args()
    rows = read_results(options.files)
    scores = [s for results in rows.values() for r in results for s in r["scores"]]
    for split, lengths in in_order([(s["split"], s["lengths"]) for s in scores]):
        print(score_table(rows, split, lengths), end="\n\n")
    if any(r["speeds"] for results in rows.values() for r in results):
        print(speed_table(rows), end="\n\n")
    print(conditions(rows))
    if options.plot:
        plot(rows, scores[-1]["split"], options.plot)


if __name__ == "__main__":
    main()
