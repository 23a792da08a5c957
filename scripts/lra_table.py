"""Make Table 4 of Nguyen et al. 2022 and an early-check table in Markdown, from the JSON files that score_lra.py wrote.

Accuracy on the test sets, the mean ± the standard deviation over seeds, beside the paper's; loss and accuracy at 5, 10, 25, 50
and 100 % of the updates of each training, so that others can see early whether theirs goes right.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common.markdown_table import markdown
from common.seeds import clash

TASKS = ("listops", "text", "retrieval", "image", "pathfinder")
PAPER = {
    "softmax": (37.10, 64.17, 80.71, 39.06, 72.48),
    "linear": (18.30, 64.22, 81.37, 38.29, 71.17),
    "performer": (18.80, 63.81, 78.62, 37.07, 69.87),
    "reformer": (19.05, 64.88, 78.64, 43.29, 69.36),
    "linformer": (37.25, 55.91, 79.37, 37.84, 67.60),
    "momentum": (19.56, 64.35, 81.95, 39.40, 73.12),
    "adaptive": (20.16, 64.45, 82.07, 39.53, 74.00),
}
EARLY = (5, 10, 25, 50, 100)  # per cent of the updates
NEEDED = ("name", "task", "date", "device", "threads", "git_revision", "data", "protocol", "parameters", "updates", "max_update")
Results = dict[tuple[str, str], list[dict[str, Any]]]  # (task, row) → a result for each seed


def read_results(files: Iterable[Path]) -> Results:
    """The results by task and row.

    Raises:
        SystemExit: a file that is no result, one seed of a row twice, or a row's seeds on other data or with other settings.
    """
    results: Results = defaultdict(list)
    for file in files:
        result = _read(file)
        group = results[result["task"], result["name"]]
        for other in group:
            if why := clash(other, result):
                raise SystemExit(f"error: {other['file']} and {file} are {why}")
        group.append(result)
    for task in TASKS:
        of_task = [r for (name, _), group in results.items() if name == task for r in group]
        for other in of_task[1:]:
            _check_comparable(of_task[0], other)
    return results


def _read(file: Path) -> dict[str, Any]:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {file}: not a result of score_lra.py ({error})") from error
    missing = [key for key in (*NEEDED, "seed", "scores", "training") if not isinstance(result, dict) or key not in result]
    if missing:
        raise SystemExit(f"error: {file}: not a result of score_lra.py: no {', '.join(missing)}")
    if result["task"] not in TASKS:
        raise SystemExit(f"error: {file}: task {result['task']!r} is none of {', '.join(TASKS)}")
    return {**result, "file": file}


def _check_comparable(first: dict[str, Any], other: dict[str, Any]) -> None:
    """Both of one table: the same examples, lengths, batches and updates."""
    for what in ("data", "protocol", "max_update"):
        if first[what] != other[what]:
            raise SystemExit(
                f"error: {first['file']} and {other['file']} differ in {what} ({_difference(first[what], other[what])}); "
                f"make a table for each"
            )


def _difference(first: Any, other: Any) -> str:
    if not isinstance(first, dict):
        return f"{first} and {other}"
    return ", ".join(f"{key}: {first.get(key)} and {other.get(key)}" for key in first | other if first.get(key) != other.get(key))


def rows_of(results: Results) -> list[str]:
    """The rows that there are: the paper's in its order, then others."""
    own = {row for _, row in results}
    return [row for row in PAPER if row in own] + sorted(own - PAPER.keys())


def accuracy(result: dict[str, Any], split: str = "test") -> float:
    for score in result["scores"]:
        if score["split"] == split:
            return score["accuracy"]
    raise SystemExit(f"error: {result['file']}: the {split} set wasn't scored; score it again with --splits valid test")


def cell(values: list[float]) -> str:
    """The mean, ± the standard deviation over seeds; empty where nothing was run."""
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def table_4(results: Results) -> str:
    """Rows × tasks: our test accuracy, in brackets the paper's; the mean where all five were run."""
    lines = []
    for row in [*PAPER, *(row for row in rows_of(results) if row not in PAPER)]:
        own = [[accuracy(result) for result in results.get((task, row), [])] for task in TASKS]
        papers = PAPER.get(row)
        if papers is None and not any(own):
            continue
        cells = [f"{cell(values)} ({papers[i]:.2f})" if papers else cell(values) for i, values in enumerate(own)]
        average = f"{mean(map(mean, own)):.2f}" if all(own) else ""
        lines.append([row, *(c.strip() for c in cells), f"{average} ({mean(papers):.2f})".strip() if papers else average])
    return markdown(["test accuracy % (paper's)", *TASKS, "mean"], lines)


def early_table(results: Results, task: str) -> str:
    """Rows × shares of the updates: loss and accuracy of the training, the mean over the seeds; then the dev set's accuracy."""
    lines, groups = [], [(row, results[task, row]) for row in rows_of(results) if (task, row) in results]
    for row, group in groups:
        points = [[at(result, share) for result in group] for share in EARLY]
        cells = [f"{mean(p['loss'] for p in of):.3f}, {mean(p['accuracy'] for p in of):.1f}" if all(of) else "" for of in points]
        seconds = [result["training"]["seconds_per_update"] for result in group if result["training"].get("seconds_per_update")]
        dev, speed = cell([accuracy(result, "valid") for result in group]), f"{mean(seconds):.2f}" if seconds else ""
        lines.append([row, *cells, dev, speed, f"{group[0]['parameters']:,}"])
    updates = groups[0][1][0]["max_update"]
    header = [f"{share} % ({max(1, share * updates // 100):,})" for share in EARLY]
    return markdown([f"{task}: loss, accuracy % after", *header, "dev", "s/update", "parameters"], lines)


def at(result: dict[str, Any], share: int) -> dict[str, float] | None:
    """What was logged last at this share of the updates, but not before half of it; None where nothing was."""
    wanted = share * result["max_update"] / 100
    found = [p for p in result["training"].get("curve", []) if "loss" in p and wanted / 2 < p["updates"] <= wanted]
    return found[-1] if found else None


def conditions(results: Results) -> str:
    """What the figures were made with, and how far that is from the published protocol: one line for each different setting."""
    lines, revisions = [], set()
    for (task, _), group in sorted(results.items(), key=lambda item: TASKS.index(item[0][0])):
        for result in group:
            lines += [f"{task}: {distance(result)}", f"{result['date']}, {result['device']}, {result['threads']} threads"]
            revisions |= {result["git_revision"], *result["training_revisions"]}
    lines.append(f"revisions {', '.join(sorted(revisions))}")
    early = [said for group in results.values() for result in group if (said := stopped(result))]
    once = "" if early else " once"  # a training that goes on is scored again
    lines += [*early, f"best checkpoint by the dev set's accuracy; the test set scored{once}, every example counted"]
    if any(len(group) > 1 for group in results.values()):
        lines.append("± of several seeds: the standard deviation over them")
    lines.append("paper: Nguyen et al. 2022, Table 4")
    return "\n".join(f"- {line}" for line in dict.fromkeys(lines))


def stopped(result: dict[str, Any]) -> str | None:
    """What to say of a training that hasn't had all of its updates."""
    curve = result["training"].get("curve") or [{"updates": result["max_update"]}]
    if curve[-1]["updates"] >= result["max_update"]:
        return None
    return f"{result['task']}: {result['name']}, seed {result['seed']}: stopped after {curve[-1]['updates']:,} updates"


def distance(result: dict[str, Any]) -> str:
    """Updates, batch, length and data of a result, the protocol's beside them where they differ."""
    protocol, sets = result["protocol"], result["data"]
    batch = protocol["batch_size"] and protocol["batch_size"] * protocol["update_freq"][-1]  # None of a training by tokens
    words = [
        _of("updates", result["max_update"], protocol["full_updates"]),
        _of("examples in a batch", batch, protocol["full_batch_size"]) if batch else "batches by tokens",
        _of("tokens at most", protocol["max_positions"], protocol["full_max_positions"]),
    ]
    if batch and protocol["full_updates"] and protocol["full_batch_size"]:
        share = result["max_update"] * batch / (protocol["full_updates"] * protocol["full_batch_size"])
        words.append(f"{float(f'{100 * share:.2g}'):g} % of the examples that the protocol trains on")
    for split, said in sets.items():
        words.append(f"{split} {said['count']:,} examples" + (f" ({said['cut']:,} cut)" if said.get("cut") else ""))
    return "; ".join([*words, f"lr {', '.join(map(str, protocol['lr']))}", f"warm-up {protocol['warmup_updates']}"])


def _of(what: str, value: int, full: int | None) -> str:
    return f"{value:,} {what}" if full in (None, value) else f"{value:,} of the protocol's {full:,} {what}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSON of score_lra.py")
    results = read_results(parser.parse_args().files)
    print(table_4(results), end="\n\n")
    for task in TASKS:
        if any(name == task for name, _ in results):
            print(early_table(results, task), end="\n\n")
    print(conditions(results))


if __name__ == "__main__":
    main()
