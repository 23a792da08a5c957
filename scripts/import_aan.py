"""Imports the AAN pairs of the Long Range Arena's Retrieval (`lra_release`) as pairs of labelled sequences of bytes.

DATA has new_aan_pairs.<train|eval|test>.tsv with the columns label, id1, id2, text1, text2 and no header. Nothing is cut unless
--max-length says so; what it cuts is counted in meta.json.

    python scripts/import_aan.py DATA OUT [--max-length N] [--counts TRAIN DEV TEST]
"""

import argparse
from pathlib import Path

import numpy as np
from common.parallel_text import InputError
from common.sequence_sets import add_options, check_options, cut, fingerprint, flatten, run_step, stands, write_set
from import_imdb import check_text

COUNTS = (147_086, 18_090, 17_437)
PUBLISHED_NAMES = {"train": "train", "dev": "eval", "test": "test"}
COLUMNS = ("label", "id1", "id2", "text1", "text2")
LABELS = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}


def read_pairs(path: Path, count: int, max_length: int | None) -> tuple[tuple, dict[str, int]]:
    """Labels and both texts' tokens and lengths, and what was cut.

    Raises:
        InputError: not `count` pairs, or a line that is none.
    """
    labels, texts = [], ([], [])
    facts = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            columns = line.removesuffix(b"\n").removesuffix(b"\r").split(b"\t")
            if len(columns) != len(COLUMNS):
                raise InputError(f"{where}: {len(columns)} columns, not {', '.join(COLUMNS)}; is the file truncated?")
            if columns[0] not in LABELS:
                raise InputError(f"{where}: label {columns[0][:20].decode('latin-1')!r}, not 0 or 1")
            labels.append(LABELS[columns[0]])
            for of_part, text in zip(texts, columns[3:], strict=True):
                (kept,), lost = cut([check_text(where, text)], max_length)
                of_part.append(kept)
                facts = {key: facts.get(key, 0) + value for key, value in lost.items()}
    if len(labels) != count:
        raise InputError(f"{path}: {len(labels):,} pairs, {count:,} expected; is it whole? Else say so with --counts")
    return (np.array(labels), *map(flatten, texts)), facts


def import_set(options: argparse.Namespace) -> None:
    """Writes the folder."""
    check_options(options)
    files = {split: options.data / f"new_aan_pairs.{name}.tsv" for split, name in PUBLISHED_NAMES.items()}
    settings = {
        "task": "retrieval",
        "made": "imported: AAN pairs of lra_release, bytes",
        "counts": options.counts,
        "max_length": options.max_length,
        "sha256": fingerprint(files.values(), options.data),
    }
    if stands(options.out, settings):
        return
    counts = zip(files.items(), options.counts, strict=True)
    read = {split: read_pairs(path, count, options.max_length) for (split, path), count in counts}
    splits, facts = ({split: pair[part] for split, pair in read.items()} for part in (0, 1))
    write_set(options.out, settings, 256, 2, splits, facts)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the pairs")
    add_options(parser, COUNTS, workers=False)
    parser.add_argument("--max-length", type=int, help="keep this many bytes of each text at most (default: all)")
    return parser.parse_args()


if __name__ == "__main__":
    run_step(lambda: import_set(parse_options()))
