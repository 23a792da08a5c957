"""Generates the ListOps of the Long Range Arena (Tay et al. 2021), as labelled sequences.

An argument above the last level is an operator with probability 0.25; expressions of other lengths than wanted are left out,
and so are repeated ones, within a split and between splits. Test and dev are the same for every number of training examples.

    python scripts/generate_listops.py OUT [--counts TRAIN DEV TEST] [--seed S] [--workers N] [--tsv FOLDER]
"""

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from common.listops import OPERATORS, WORDS, ExpressionError, Shape, draw, publish
from common.parallel_text import InputError, write_lines
from common.sequence_sets import Block, add_options, check_options, generate_set, run_step
from common.whole_file import whole_file

from momentum_fairseq.data.labelled_sequences import LabelledSequences

COUNTS = (96_000, 2_000, 2_000)
BLOCK = 1000
PUBLISHED_NAMES = {"train": "train", "dev": "val", "test": "test"}


def make_block(number: int, seed: int, shape: Shape) -> Block:
    """The block of a number."""
    try:
        return Block(*draw(np.random.default_rng((seed, number)), BLOCK, shape))
    except ExpressionError as error:
        raise InputError(str(error)) from None


def write_published(out: Path, folder: Path) -> None:
    """Write `basic_<train|val|test>.tsv` with the columns Source and Target."""
    for split, name in PUBLISHED_NAMES.items():
        path = folder / f"basic_{name}.tsv"
        if path.exists():
            print(f"{path}: stands, nothing to do")
            continue
        examples = (f"{publish(tokens.tolist())}\t{label}" for tokens, label in LabelledSequences(out, split))
        with whole_file(path) as part:
            write_lines(part, ("Source\tTarget", *examples))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, COUNTS, workers=True)
    for name, value in asdict(Shape()).items():
        if name != "operator_probability":
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help="(default: %(default)s)")
    parser.add_argument("--tsv", type=Path, help="folder for the same as text, in the published form")
    return parser.parse_args()


def generate(options: argparse.Namespace) -> None:
    """Writes the folder, and the text where wanted.

    Raises:
        InputError: an option that can't be.
    """
    check_options(options)
    shape = Shape(options.max_depth, options.max_args, options.min_length, options.max_length)
    for name, value, least in (("--max-depth", shape.max_depth, 2), ("--max-args", shape.max_args, 2)):
        if value < least:
            raise InputError(f"{name} {value}: must be at least {least}")
    if shape.max_length < shape.min_length + 2:
        raise InputError(f"--min-length {shape.min_length}, --max-length {shape.max_length}: no length lies between")
    settings = {
        "task": "listops",
        "made": f"generated: operators {' '.join(OPERATORS)}, expressions longer than min_length, shorter than max_length",
        "seed": options.seed,
        "counts": options.counts,
        **asdict(shape),
    }
    make = partial(make_block, seed=options.seed, shape=shape)
    generate_set(options.out, settings, len(WORDS), 10, make, BLOCK, options.workers)
    if options.tsv:
        write_published(options.out, options.tsv)


if __name__ == "__main__":
    run_step(lambda: generate(parse_options()))
