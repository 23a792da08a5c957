"""Table and figure of the rows of images: python scripts/plot_images.py examples/image_generation/results/mnist-small

Reads <ROW>-seed<SEED>.json, which score_images.py wrote, in the folder; writes table.md and bits_per_dim.png into it. Seeds of a
row are averaged.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from common.markdown_table import markdown
from common.panels import pyplot, save
from common.seeds import clash
from common.whole_file import write_text

ROWS = ("softmax", "linear", "momentum", "connection", "adaptive")
NEEDED = ("name", "scores", "curve", "updates", "max_update", "seconds_per_update", "lossy", "images")


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of each row, in the papers' order.

    Raises:
        ValueError: a file that isn't a result, or results that don't go together.
        FileNotFoundError: there is none.
    """
    found = defaultdict(list)
    for file in sorted(folder.glob("*-seed*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in NEEDED if key not in result]
        if missing or result["name"] not in ROWS:
            lacks = ", ".join(missing) or f"row named {result['name']}"
            raise ValueError(f"{file}: no result of score_images.py --name {'|'.join(ROWS)}: no {lacks}")
        for other in found[result["name"]]:
            if why := clash(other, result):
                raise ValueError(f"{other['file']} and {file} are {why}")
        found[result["name"]].append({**result, "file": file})
    if not found:
        raise FileNotFoundError(f"no <ROW>-seed<SEED>.json in {folder}; make them with examples/image_generation/run.sh")
    scored = {describe_images(result) for results in found.values() for result in results}
    if len(scored) > 1:
        raise ValueError(f"{folder}: scores of different images: {'; '.join(sorted(scored))}")
    lasted = sorted({result["max_update"] for results in found.values() for result in results})
    if len(lasted) > 1:
        raise ValueError(f"{folder}: trainings of {' and '.join(f'{n:,}' for n in lasted)} updates; make a table for each")
    return {row: found[row] for row in ROWS if row in found}


def describe_images(result: dict[str, Any]) -> str:
    """Which images a result was scored on."""
    lossy, score = ", lossy: not comparable with published results" if result["lossy"] else "", result["scores"][0]
    return f"{result['images']} {score['split']}, {score['images']} images{lossy}"


def describe_updates(result: dict[str, Any]) -> str:
    """After how many updates a checkpoint was the best, and where its training was stopped."""
    wanted = result["max_update"]
    last = result.get("last_update", wanted)
    return str(result["updates"]) + (f" (stopped after {last} of {wanted})" if last < wanted else "")


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """A row of each, in Markdown."""
    title = describe_images(next(iter(rows.values()))[0])
    header, lines = [title, "seeds", "updates", "bits/dim", "±", "s/update"], []
    for row, results in rows.items():
        bits, error = (mean(r["scores"][0][key] for r in results) for key in ("bits_per_dim", "standard_error"))
        seconds = [r["seconds_per_update"] for r in results if r["seconds_per_update"]]
        speed = f"{mean(seconds):.3f}" if seconds else ""
        updates = ", ".join(dict.fromkeys(map(describe_updates, results)))
        lines.append([row, str(len(results)), updates, f"{bits:.4f}", f"{error:.4f}", speed])
    return markdown(header, lines) + "\n"


def curve(results: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Updates and the mean of the seeds at those that all of them have logged."""
    by_updates = [{point["updates"]: point[key] for point in result["curve"] if key in point} for result in results]
    updates = sorted(set.intersection(*map(set, by_updates)))
    return updates, [mean(points[update] for points in by_updates) for update in updates]


def plot(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Bits per dimension against updates, on the training and the held-out images; whole or not at all."""
    figure, panels = pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, (key, title) in zip(panels, {"loss": "training", "valid_loss": "held out"}.items(), strict=True):
        values = []
        for row, results in rows.items():
            updates, bits = curve(results, key)
            panel.plot(updates, bits, color=f"C{ROWS.index(row)}", marker="o" if len(bits) < 20 else None, ms=3, label=row)
            values += bits[len(bits) // 10 :]
        panel.set(xlabel="updates", ylabel="bits/dim", title=title)
        if values:
            panel.set_ylim(min(values) * 0.97, max(values) * 1.03)  # the first updates would hide the others
        panel.grid(alpha=0.3)
    panels[0].legend()
    save(figure, path, dpi=100)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {__doc__}")
    folder = Path(sys.argv[1])
    try:
        rows = read(folder)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    write_text(folder / "table.md", table(rows))
    plot(rows, folder / "bits_per_dim.png")
    print(table(rows), end="")


if __name__ == "__main__":
    main()
