"""Reports a prepared folder of the Long Range Arena: class balance, lengths, repeated examples, checksums; a sheet of its images.

Two accuracies say what little a classifier may know: of the most frequent label, and of the label that is the most frequent
in the training set for an example's first token. In ListOps that is the outermost operator.

    python scripts/lra_report.py FOLDER [--json FILE] [--sheet FILE.png]
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from common.parallel_text import InputError
from common.run_record import run_record
from common.sequence_sets import digest_of, run_step
from common.whole_file import whole_file, write_json
from PIL import Image

from momentum_fairseq.data.labelled_sequences import LabelledSequences, read_meta, verify

QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def describe(split: LabelledSequences) -> dict[str, Any]:
    """Count, examples by label, and for each part the mean and quantiles of the lengths."""
    return {
        "count": len(split),
        "by_label": np.bincount(split.labels, minlength=split.classes).tolist(),
        "majority_accuracy": round(100 * np.bincount(split.labels).max() / len(split), 2),
        "lengths": [
            {
                "mean": round(float(lengths.mean()), 1),
                **{f"{q}%": int(np.percentile(lengths, q, method="nearest")) for q in QUANTILES},
            }
            for lengths in split.lengths
        ],
    }


def first_token_accuracy(train: LabelledSequences, split: LabelledSequences) -> float:
    """Per cent right by the label that the training set's examples with the same first token have most often."""
    counts = np.zeros((train.vocabulary, train.classes), dtype=np.int64)
    np.add.at(counts, (first_tokens(train), train.labels), 1)
    return round(100 * float((counts.argmax(1)[first_tokens(split)] == split.labels).mean()), 2)


def first_tokens(split: LabelledSequences) -> np.ndarray:
    """Of each example's first part, `[n]`."""
    tokens, offsets = split.parts[0]
    return tokens[offsets[:-1]]


def count_repeated(splits: dict[str, LabelledSequences]) -> dict[str, int]:
    """Examples of each split that an earlier one, of this or another split, repeats token for token."""
    seen: set[bytes] = set()
    repeated = Counter(dict.fromkeys(splits, 0))
    for name, split in splits.items():
        for item in range(len(split)):
            digest = b"".join(digest_of(tokens[offsets[item] : offsets[item + 1]]) for tokens, offsets in split.parts)
            repeated[name] += digest in seen
            seen.add(digest)
    return dict(repeated)


def contact_sheet(split: LabelledSequences, columns: int = 12) -> np.ndarray:
    """The first images of each class, a row a class (three rows where there are two), uint8 `[H,W]`.

    Raises:
        InputError: the sequences are no square images.
    """
    side = int(np.sqrt(split.sizes[0]))
    if (split.lengths != side * side).any() or len(split.lengths) != 1:
        raise InputError(f"{split.folder}: the sequences are no square images; leave out --sheet")
    rows_each = 3 if split.classes == 2 else 1
    rows = []
    for label in range(split.classes):
        numbers = np.flatnonzero(split.labels == label)[: columns * rows_each]
        images = np.zeros((columns * rows_each, side, side), dtype=np.uint8)
        for place, number in enumerate(numbers):
            images[place] = split[number][0].reshape(side, side).numpy()
        framed = np.pad(images, ((0, 0), (1, 1), (1, 1)), constant_values=255)
        rows.append(framed.reshape(rows_each, columns, side + 2, side + 2).swapaxes(1, 2).reshape(rows_each * (side + 2), -1))
    return np.concatenate(rows)


def save_sheet(path: Path, sheet: np.ndarray, zoom: int = 2) -> None:
    """Write a PNG whole or not at all."""
    with whole_file(path) as part:
        Image.fromarray(np.kron(sheet, np.ones((zoom, zoom), dtype=np.uint8))).save(part, format="PNG", optimize=True)


def show(report: dict[str, Any]) -> None:
    """Print the report."""
    print(f"{report['task']}: vocabulary {report['vocabulary']:,}, {report['classes']} classes; {report['settings']['made']}")
    for name, split in report["splits"].items():
        print(f"  {name:5} {split['count']:,} examples, {split['repeated']} repeated; by label {split['by_label']}")
        for lengths in split["lengths"]:
            quantiles = ", ".join(f"{key} {lengths[key]:,}" for key in lengths if key != "mean")
            print(f"        length mean {lengths['mean']:,}; {quantiles}")


def report(options: argparse.Namespace) -> None:
    """Prints the report and writes what was asked for."""
    meta = read_meta(options.folder)
    verify(options.folder)
    splits = {name: LabelledSequences(options.folder, name) for name in meta["splits"]}
    repeated = count_repeated(splits)
    content = {
        **run_record(sys.argv),
        "task": meta["settings"]["task"],
        **{key: value for key, value in meta.items() if key != "splits"},
        "splits": {
            name: {
                **meta["splits"][name],
                **describe(split),
                "first_token_accuracy": first_token_accuracy(splits["train"], split),
                "repeated": repeated[name],
            }
            for name, split in splits.items()
        },
    }
    show(content)
    if options.json:
        write_json(options.json, content)
    if options.sheet:
        save_sheet(options.sheet, contact_sheet(splits["train"]))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what prepare_lra.sh made")
    parser.add_argument("--json", type=Path, help="file to write the report to")
    parser.add_argument("--sheet", type=Path, help="PNG file for the first images of each class")
    return parser.parse_args()


if __name__ == "__main__":
    run_step(lambda: report(parse_options()))
