"""Imports ListOps as published (`basic_<train|val|test>.tsv`, columns Source and Target) as labelled sequences.

Parentheses are left out; brackets, operators and digits are tokens. Each expression is evaluated and held to its target.

    python scripts/import_listops.py DATA OUT [--counts TRAIN DEV TEST]
"""

import argparse
from pathlib import Path

import numpy as np
from common.listops import WORDS, ExpressionError, evaluate, parse
from common.parallel_text import InputError, read_lines
from common.sequence_sets import add_options, check_options, fingerprint, flatten, run_step, stands, write_set
from generate_listops import COUNTS, PUBLISHED_NAMES

COLUMNS = ["Source", "Target"]


def read_published(path: Path, count: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Labels, tokens and lengths of a file of `count` examples.

    Raises:
        InputError: it is missing, truncated, or a line of it is no example.
    """
    header, *lines = read_lines(path)
    if header.split("\t") != COLUMNS:
        raise InputError(f"{path}:1: the columns are {header[:80]!r}, not {' and '.join(COLUMNS)} with a tab between")
    if len(lines) != count:
        raise InputError(f"{path}: {len(lines):,} examples, {count:,} expected; is it whole? Else say so with --counts")
    sequences, labels = [], []
    for number, line in enumerate(lines, 2):
        source, _, target = line.partition("\t")
        if target not in WORDS[:10]:
            raise InputError(f"{path}:{number}: Target is {target[:80]!r}, not a digit")
        try:
            tokens = parse(source)
            value = evaluate(tokens)
        except ExpressionError as error:
            raise InputError(f"{path}:{number}: {error}") from None
        if value != int(target):
            raise InputError(f"{path}:{number}: Target is {target}, but the expression's value is {value}")
        sequences.append(bytes(tokens))
        labels.append(value)
    return np.array(labels), flatten(sequences)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of basic_train.tsv, basic_val.tsv, basic_test.tsv")
    add_options(parser, COUNTS, workers=False)
    return parser.parse_args()


def import_set(options: argparse.Namespace) -> None:
    """Writes the folder."""
    check_options(options)
    files = {split: options.data / f"basic_{name}.tsv" for split, name in PUBLISHED_NAMES.items()}
    source = fingerprint(files.values(), options.data)
    settings = {"task": "listops", "made": "imported, parentheses left out", "counts": options.counts, "sha256": source}
    if not stands(options.out, settings):
        counts = zip(files.items(), options.counts, strict=True)
        splits = {split: read_published(path, count) for (split, path), count in counts}
        write_set(options.out, settings, len(WORDS), 10, splits)


if __name__ == "__main__":
    run_step(lambda: import_set(parse_options()))
