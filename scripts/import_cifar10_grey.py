"""Imports CIFAR-10 as labelled sequences of 1,024 grey values, for the Long Range Arena's Image.

Grey is ITU-R 601's (0.299, 0.587, 0.114), rounded; rows from the top. The dev set is split off the training set by the seed, the
classes in proportion. DATA is as momentum_fairseq.data.cifar10 takes it; meta.json says where images went through JPEG.

    python scripts/import_cifar10_grey.py DATA OUT [--counts TRAIN DEV TEST] [--seed S]
"""

import argparse
from pathlib import Path

import numpy as np
from common.parallel_text import InputError
from common.sequence_sets import add_options, check_options, choose, fingerprint, run_step, stands, write_set

from momentum_fairseq.data.cifar10 import cifar10_files, read_cifar10

COUNTS = (45_000, 5_000, 10_000)
IMAGES = (50_000, 10_000)
SOURCES = ("train", "test")
SHAPE = (32, 32, 3)


def to_grey(images: np.ndarray) -> np.ndarray:
    """Grey values uint8 `[n,32,32]` of uint8 `[n,32,32,3]` in red, green, blue."""
    red, green, blue = np.moveaxis(images.astype(np.uint32), -1, 0)
    return ((299 * red + 587 * green + 114 * blue + 500) // 1000).astype(np.uint8)


def read_images(data: Path, source: str, expected: int, *, verify: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """Grey values `[n,32,32]`, int64 labels `[n]`, and whether they are lossy.

    Raises:
        InputError: the files are missing or damaged, or hold another number of images.
    """
    try:
        images, labels, lossy = read_cifar10(data, source, verify=verify)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from None
    if images.shape != (expected, *SHAPE):
        raise InputError(f"{data}: {source} is {list(images.shape)}, not {expected:,} images of {list(SHAPE)}; is it whole?")
    return to_grey(images), labels.astype(np.int64), lossy


def import_set(options: argparse.Namespace) -> None:
    """Writes the folder."""
    check_options(options)
    try:
        files = [file for source in SOURCES for file in cifar10_files(options.data, source)]
    except FileNotFoundError as error:
        raise InputError(str(error)) from None
    settings = {
        "task": "image",
        "made": "imported: CIFAR-10, grey by ITU-R 601; dev split off the training set",
        "seed": options.seed,
        "counts": options.counts,
        "sha256": fingerprint(files, options.data),
    }
    if stands(options.out, settings):
        return
    read = [read_images(options.data, s, n, verify=options.verify) for s, n in zip(SOURCES, options.expect, strict=True)]
    (images, labels, lossy), (test_images, test_labels, _) = read
    train, dev, test = options.counts
    dev_numbers, train_numbers = choose(labels, [dev, train], options.seed, f"{options.data}, train")
    (test_numbers,) = choose(test_labels, [test], options.seed, f"{options.data}, test")
    splits = {}
    for split, grey, of, numbers in (
        ("train", images, labels, train_numbers),
        ("dev", images, labels, dev_numbers),
        ("test", test_images, test_labels, test_numbers),
    ):
        pixels = grey[numbers].reshape(len(numbers), -1)
        splits[split] = of[numbers], (pixels.ravel(), np.full(len(numbers), pixels.shape[1]))
    note = "JPEG-compressed images: accuracies can't be compared with published ones" if lossy else ""
    write_set(options.out, settings, 256, 10, splits, lossy=lossy, note=note)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of CIFAR-10")
    add_options(parser, COUNTS, workers=False)
    parser.add_argument("--skip-checksums", dest="verify", action="store_false", help="take files other than the published ones")
    names = ("TRAIN", "TEST")
    parser.add_argument("--expect", type=int, nargs=2, default=IMAGES, metavar=names, help="in DATA (default: 50000 10000)")
    return parser.parse_args()


if __name__ == "__main__":
    run_step(lambda: import_set(parse_options()))
