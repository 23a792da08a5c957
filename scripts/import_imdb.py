"""Imports the IMDb reviews (Maas et al. 2011) as labelled sequences of bytes, for the Long Range Arena's Text.

DATA is the published folder (train/pos/<number>_<rating>.txt, …), that which holds it as aclImdb, or one of train.tsv.xz and
test.tsv.xz with lines `label rating id text`. The dev set is split off the training set by the seed, the classes in proportion.
Nothing is cut unless --max-length says so; what it cuts is counted in meta.json.

    python scripts/import_imdb.py DATA OUT [--max-length N] [--counts TRAIN DEV TEST] [--seed S]
"""

import argparse
import lzma
import re
from pathlib import Path

import numpy as np
from common.parallel_text import InputError, read_bytes
from common.sequence_sets import add_options, check_options, choose, cut, fingerprint, flatten, run_step, stands, write_set

COUNTS = (22_500, 2_500, 25_000)
REVIEWS = (25_000, 25_000)  # published, train and test; half of each is positive
SOURCES = ("train", "test")
FOLDERS = {"neg": 0, "pos": 1}
Reviews = list[tuple[int, bytes]]


def published_folder(data: Path) -> Path | None:
    """Where the published folders are, None where they aren't."""
    return next((folder for folder in (data, data / "aclImdb") if (folder / "train/pos").is_dir()), None)


def source_files(data: Path, source: str) -> list[Path]:
    """The files that hold the reviews of `train` or `test`, in the order of their numbers.

    Raises:
        InputError: there are none.
    """
    folder = published_folder(data)
    if folder is None:
        path = data / f"{source}.tsv.xz"
        if not path.is_file():
            raise InputError(f"{data}: neither train/pos, aclImdb/train/pos nor {source}.tsv.xz in it")
        return [path]
    files = [path for name in FOLDERS for path in (folder / source / name).glob("*.txt")]
    for path in files:
        if not re.fullmatch(r"\d+_\d+", path.stem):
            raise InputError(f"{path}: not named <number>_<rating>.txt")
    return sorted(files, key=lambda path: (path.parent.name, int(path.stem.partition("_")[0])))


def read_reviews(files: list[Path]) -> Reviews:
    """Label and text of each review.

    Raises:
        InputError: a file is damaged, a text empty, a label not that of its rating.
    """
    if files and files[0].name.endswith(".xz"):
        return read_table(files[0])
    reviews = []
    for path in files:
        label = check_label(path, str(FOLDERS[path.parent.name]), path.stem.partition("_")[2])
        reviews.append((label, check_text(path, path.read_bytes())))
    return reviews


def read_table(path: Path) -> Reviews:
    """As `read_reviews`, from one packed table."""
    try:
        lines = lzma.decompress(read_bytes(path)).split(b"\n")
    except (lzma.LZMAError, EOFError):
        raise InputError(f"{path}: not a whole .xz file; get it again") from None
    if lines.pop():
        raise InputError(f"{path}:{len(lines) + 1}: the last line has no end; is the file truncated?")
    reviews = []
    for number, line in enumerate(lines, 1):
        columns = line.split(b"\t")
        if len(columns) != 4:
            raise InputError(f"{path}:{number}: {len(columns)} columns, not label, rating, id and text")
        label, rating, _, text = columns
        where = f"{path}:{number}"
        reviews.append((check_label(where, label.decode("latin-1"), rating.decode("latin-1")), check_text(where, text)))
    return reviews


def check_label(where: Path | str, label: str, rating: str) -> int:
    """0 for a rating of 1 to 4, 1 for 7 to 10; anything else is refused."""
    if label not in ("0", "1") or rating not in (("1", "2", "3", "4"), ("7", "8", "9", "10"))[int(label)]:
        meaning = "negative is 0 with 1 … 4, positive is 1 with 7 … 10"
        raise InputError(f"{where}: label {label[:20]!r}, rating {rating[:20]!r}; {meaning}")
    return int(label)


def check_text(where: Path | str, text: bytes) -> bytes:
    """The text; an empty one is refused."""
    if not text.strip():
        raise InputError(f"{where}: the text is empty")
    return text


def import_set(options: argparse.Namespace) -> None:
    """Writes the folder."""
    check_options(options)
    files = {source: source_files(options.data, source) for source in SOURCES}
    settings = {
        "task": "text",
        "made": "imported: IMDb reviews, bytes; dev split off the training set",
        "seed": options.seed,
        "counts": options.counts,
        "max_length": options.max_length,
        "sha256": fingerprint(sum(files.values(), []), options.data),
    }
    if stands(options.out, settings):
        return
    reviews = {}
    for (source, paths), expected in zip(files.items(), options.expect, strict=True):
        reviews[source] = read_reviews(paths)
        positive = sum(label for label, _ in reviews[source])
        if len(reviews[source]) != expected or 2 * positive != expected:
            found = f"{len(reviews[source]):,} reviews, {positive:,} of them positive"
            raise InputError(f"{options.data}: {source} has {found}; {expected:,}, half of them, expected; is it whole?")
    train, dev, test = options.counts
    labels = {source: np.array([label for label, _ in reviews[source]]) for source in SOURCES}
    dev_numbers, train_numbers = choose(labels["train"], [dev, train], options.seed, f"{options.data}, train")
    (test_numbers,) = choose(labels["test"], [test], options.seed, f"{options.data}, test")
    splits, facts = {}, {}
    chosen = {"train": ("train", train_numbers), "dev": ("train", dev_numbers), "test": ("test", test_numbers)}
    for split, (source, numbers) in chosen.items():
        texts, facts[split] = cut([reviews[source][i][1] for i in numbers], options.max_length)
        splits[split] = labels[source][numbers], flatten(texts)
    write_set(options.out, settings, 256, 2, splits, facts)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the reviews")
    add_options(parser, COUNTS, workers=False)
    parser.add_argument("--max-length", type=int, help="keep this many bytes of each text at most (default: all)")
    names = ("TRAIN", "TEST")
    parser.add_argument("--expect", type=int, nargs=2, default=REVIEWS, metavar=names, help="in DATA (default: 25000 25000)")
    return parser.parse_args()


if __name__ == "__main__":
    run_step(lambda: import_set(parse_options()))
