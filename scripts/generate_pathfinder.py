"""Generates Pathfinder-32 hard of the Long Range Arena (Linsley et al. 2018, Tay et al. 2021), as labelled sequences of pixels.

Splits of even size are exactly balanced, and the distance of the markers tells nothing of the label (common/pathfinder.py).
Test and dev are the same for every number of training images.

    python scripts/generate_pathfinder.py OUT [--counts TRAIN DEV TEST] [--seed S] [--workers N]
"""

import argparse
from dataclasses import asdict
from functools import partial

import numpy as np
from common.pathfinder import Scene, draw
from common.sequence_sets import Block, add_options, check_options, generate_set, run_step

COUNTS = (160_000, 20_000, 20_000)
BLOCK = 2000


def make_block(number: int, seed: int, block: int = BLOCK) -> Block:
    """The block of a number."""
    images, labels = draw(np.random.default_rng((seed, number)), block // 2, Scene())
    return Block(images.ravel(), np.full(len(images), images[0].size), labels)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, COUNTS, workers=True)
    return parser.parse_args()


def generate(options: argparse.Namespace, block: int = BLOCK) -> None:
    """Writes the folder."""
    check_options(options)
    settings = {
        "task": "pathfinder",
        "made": "generated: pixels, rows from the top",
        "seed": options.seed,
        "counts": options.counts,
        "block": block,
        **asdict(Scene()),
    }
    make = partial(make_block, seed=options.seed, block=block)
    generate_set(options.out, settings, 256, 2, make, block, options.workers)


if __name__ == "__main__":
    run_step(lambda: generate(parse_options()))
