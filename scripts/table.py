"""Make Markdown tables, and with --plot a picture, from the JSON files that evaluate.py wrote, and from them alone.

BLEU and chrF of each row after each number of decoder passes, one table for each set and kind of length; the differences to a
baseline with their significance; the speeds; beside the papers' numbers where the data is IWSLT'16.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common.bootstrap import difference, half_interval, signature
from common.markdown_table import markdown
from common.plot_results import plot
from common.results import Key, Result, Row, group_rows, marks_with, read_results, shared_marks, without_repeats

# Nguyen et al. 2022, Table 5: BLEU and tokens a second. Lee et al. 2018, dev set, after 1, 2, 5, 10 passes and adaptive.
PAPER = {
    "softmax": (24.34, 5104),
    "linear": (21.37, 1382),
    "momentum": (22.11, 1398),
    "connection": (22.14, 1403),
    "adaptive": (22.20, 1410),
}
PAPER_CORPUS = "IWSLT'16 en-de, validation on tst2013, test on tst2014"  # as prepare_iwslt16.sh names it
LEE = {"1": 22.20, "2": 24.82, "5": 26.58, "10": 27.11, "adaptive": 27.01}


def in_order(values: Iterable) -> list:
    """Each value once, in the order of the first appearance."""
    return list(dict.fromkeys(values))


def cell(values: list[float], digits: int, interval: float | None = None) -> str:
    """The mean, ± the standard deviation over seeds or one seed's interval; empty where nothing was run."""
    if not values:
        return ""
    spread = stdev(values) if len(values) > 1 else interval
    return f"{mean(values):.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def of_seeds(text: str, found: list[Any], row: Row) -> str:
    """What a cell holds; where not all of its row's seeds were found, of how many."""
    return f"{text} ({len(found)} of {len(row.results)} seeds)" if 0 < len(found) < len(row.results) else text


def place(row: Row) -> tuple[int, int]:
    """Sorts rows: the paper's first, in its order, the plain one of a name before its variants; the others as the files are."""
    return (list(PAPER).index(row.name), len(row.marks)) if row.name in PAPER else (len(PAPER), 0)


def steps_of(rows: list[Row], split: str, lengths: str) -> list[str]:
    """The steps that any row has: numbers by size, then adaptive, then beams."""
    steps = {key[2] for row in rows for r in row.results for key in r.scores if key[:2] == (split, lengths)}
    return sorted(steps, key=lambda step: (not step.isdigit(), int(step) if step.isdigit() else 0, step))


def is_iwslt16(rows: list[Row]) -> bool:
    """Whether all rows were trained on and scored with the corpus of the papers' tables."""
    results = [r for row in rows for r in row.results]
    return all((r.data.get("corpus") or "").startswith(PAPER_CORPUS) for r in results)


def score_table(rows: list[Row], split: str, lengths: str, metric: str = "bleu") -> str:
    """Rows × steps of one metric on one set."""
    steps, lines = steps_of(rows, split, lengths), []
    for row in without_repeats(rows, split, lengths):
        cells = []
        for key in ((split, lengths, step) for step in steps):
            resampled = row.resampled(key) if metric == "bleu" else None
            values = row.values(key, metric)
            cells.append(of_seeds(cell(values, 2, None if resampled is None else half_interval(resampled)), values, row))
        lines.append([row.label_with(lengths), *cells] if any(cells) else [])
    if metric == "bleu" and (split, lengths) == ("valid", "predicted") and is_iwslt16(rows):
        lines.append(["Lee et al. 2018", *(f"{LEE[step]:.2f}" if step in LEE else "" for step in steps)])
    return markdown([f"{metric} {split}, {lengths} length", *steps], list(filter(None, lines)))


def difference_table(rows: list[Row], baseline: Row, split: str, lengths: str) -> str:
    """Rows × steps: BLEU less the baseline's, half its 95 % interval and the p-value, where both kept their sentences."""
    steps = [step for step in steps_of(rows, split, lengths) if baseline.values((split, lengths, step), "bleu")]
    same = [row for row in rows if row.repeats(baseline, split, lengths) or baseline.repeats(row, split, lengths)]
    others = [row for row in without_repeats(rows, split, lengths) if row not in same]
    lines = [[r.label_with(lengths), *(difference_cell(r, baseline, (split, lengths, s)) for s in steps)] for r in others]
    header = [f"bleu {split}, {lengths} length, less {baseline.label_with(lengths)}", *steps]
    return markdown(header, [x for x in lines if any(x[1:])])


def difference_cell(row: Row, baseline: Row, key: Key) -> str:
    own, other = row.mean(key), baseline.mean(key)
    if own is None or other is None:
        return ""
    text, resampled, resampled_baseline = f"{own - other:+.2f}", row.resampled(key), baseline.resampled(key)
    if resampled is not None and resampled_baseline is not None:
        result = difference(own - other, resampled, resampled_baseline)
        text = f"{result.value:+.2f} ± {result.interval:.2f} (p {result.p_value:.3f})"
    text, of_baseline = of_seeds(text, row.values(key, "bleu"), row), of_seeds("", baseline.values(key, "bleu"), baseline)
    return f"{text}, less{of_baseline}" if of_baseline else text


def speed_table(rows: list[Row]) -> str:
    """(Batch, steps) × rows: target sub-words and sentences a second."""
    rows = [row for row in rows if row.speeds()]
    kinds = in_order((speed["batch"], speed["steps"]) for row in rows for speed in row.speeds())
    lines = []
    for kind in sorted(kinds, key=lambda kind: kind[0] != "1"):
        line = [f"batch {kind[0]}, steps {kind[1]}"]
        for row in rows:
            chosen = row.speeds(kind)
            words, sentences = (cell([speed[f"{unit}_per_second"] for speed in chosen], 0) for unit in ("subwords", "sentences"))
            line.append(of_seeds(f"{words} ({sentences})" if words else "", chosen, row))
        lines.append(line)
    return markdown(["sub-words/s (sentences/s)", *(row.label for row in rows)], lines)


def paper_table(rows: list[Row], steps: str = "10") -> str:
    """Our rows after `steps` passes, or with their beam, predicted lengths, beside the paper's Table 5; empty where not run."""
    own: dict[str, list[Row]] = {name: [] for name in PAPER}
    for row in rows:
        own.setdefault(row.name, []).append(row)
    lines = []
    for name, of_name in own.items():
        paper = [f"{PAPER[name][0]:.2f}", str(PAPER[name][1])] if name in PAPER else ["", ""]
        for row in of_name or [Row(name, (), [])]:
            beam = next((key[2] for result in row.results for key in result.scores if key[2].startswith("beam")), None)
            found = [row.values((split, "predicted", beam or steps), "bleu") for split in ("valid", "test")]
            scores = [of_seeds(cell(values, 2), values, row) for values in found]
            speeds = [speed["subwords_per_second"] for speed in row.speeds(("1", beam or steps))]
            label = f"{row.label}, {beam}" if beam else row.label
            lines.append([label, *scores, of_seeds(cell(speeds, 0), speeds, row), *paper])
    header = [f"{steps} steps", "bleu valid", "bleu test", "sub-words/s, batch 1", "paper's BLEU", "paper's tokens/s"]
    return markdown(header, lines)


def conditions(rows: list[Row], baseline: Row | None) -> str:
    """What the figures were made with: one line for each different setting, the data, the signatures, what ± means."""
    results = [r for row in rows for r in row.results]
    lines = in_order(condition(r) for r in results) + in_order(data_line(r) for r in results if r.data)
    if shared_marks(results):
        everywhere = marks_with("oracle", shared_marks(results))
        predicted = [mark for mark in shared_marks(results) if mark not in everywhere]
        lines += [f"all rows: {', '.join(everywhere)}"] if everywhere else []
        lines += [f"all rows with predicted lengths: {', '.join(predicted)}"] if predicted else []
    scores = [s for r in results for s in r.scores.values()]
    lines += in_order([f"BLEU {s['bleu_signature']}" for s in scores] + [f"chrF {s['chrf_signature']}" for s in scores])
    if any(r.statistics for r in results):
        p_value = "p: of the difference being chance, by sacreBLEU's formula, about half of what a two-sided test gives"
        what, note = ("± of one seed and of differences", f"; {p_value}") if baseline else ("± of one seed", "")
        how = "paired bootstrap over sentences, bs:{bs}|seed:{seed}".format(**signature())
        lines.append(f"{what}: half the 95 % interval ({how}){note}")
    if any(len(row.results) > 1 for row in rows):
        mean_of = "; a difference is one of means over seeds, and its interval says nothing of other seeds" if baseline else ""
        lines.append(f"± of several seeds: the standard deviation over them{mean_of}")
    if is_iwslt16(rows):
        their_protocol = "the dev set with reference lengths and repeats removed, and counts source words as tokens"
        lines.append(f"papers: Nguyen et al. 2022, Table 5, whose code scores {their_protocol}; Lee et al. 2018, dev set")
    return "\n".join(f"- {line}" for line in lines)


def condition(result: Result) -> str:
    updates = f"{result['updates']} updates"
    if (wanted := result.content.get("max_update", result["updates"])) != result["updates"]:
        last = result.content.get("last_update", wanted)
        updates = f"best of {wanted if last >= wanted else f'{last} of {wanted}'} updates at {result['updates']}"
    if result.content.get("training_revisions"):
        updates += f" by revision {', '.join(result['training_revisions'])}"
    return f"{result['date']}, {result['device']}, {result['threads']} threads, {updates}, revision {result['git_revision']}"


def data_line(result: Result) -> str:
    data, text, trained_on = result.data, result["text"], result.content.get("training_set", {})
    traits = {
        "a substitute training set": data.get("substitute"),
        "distilled targets": data.get("distilled"),
        "lower-cased": text["lowercased"],
        "scored as tokenised": text["tokenized"],
        "training set " + ", ".join(f"{language} {checksum[:8]}" for language, checksum in trained_on.items()): trained_on,
    }
    sets = ", ".join(f"{split} {s['name']} ({s['sentences']} sentences)" for split, s in data["sets"].items())
    return ", ".join([f"data {data['corpus'] or data['languages']}", sets, *(trait for trait, holds in traits.items() if holds)])


def find_baseline(rows: list[Row], name: str) -> Row:
    """The row of this label, or the only one of this name.

    Raises:
        SystemExit: none or several.
    """
    found = [row for row in rows if row.label == name] or [row for row in rows if row.name == name]
    if len(found) != 1:
        labels = "; ".join(row.label for row in rows)
        raise SystemExit(f"error: --baseline {name}: {'no such row' if not found else 'several rows'}; there are: {labels}")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSON of evaluate.py")
    parser.add_argument("--baseline", metavar="ROW", help="also the differences to this row, with p-values")
    parser.add_argument("--metrics", nargs="+", default=["bleu"], choices=["bleu", "chrf"], help="a table for each (bleu)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw BLEU against steps and speed, and speed against length")
    options = parser.parse_args()
    results = read_results(options.files)
    rows = sorted(group_rows(results), key=place)
    baseline = find_baseline(rows, options.baseline) if options.baseline else None
    if is_iwslt16(rows):
        print(paper_table(rows), end="\n\n")
    for split, lengths in in_order(key[:2] for r in results for key in r.scores):
        for metric in options.metrics:
            print(score_table(rows, split, lengths, metric), end="\n\n")
        if baseline:
            print(difference_table(rows, baseline, split, lengths), end="\n\n")
    if any(r["speeds"] for r in results):
        print(speed_table(rows), end="\n\n")
    print(conditions(rows, baseline))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
