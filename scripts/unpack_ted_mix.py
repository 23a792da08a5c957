"""Unpacks ted_mix (TED and Tatoeba, En–De): train.<language>.xz, train.src.xz with each line's source, valid, test."""

import argparse
import lzma
from collections import Counter
from pathlib import Path

from common.parallel_text import SPLITS, InputError, decode_lines, read_bytes, run, write_lines, write_report


def read_packed(path: Path) -> list[str]:
    """Reads the lines of a file, from `path.xz` where that is there.

    Raises:
        InputError: it is missing, empty, not UTF-8, or the packed one isn't whole.
    """
    packed = path.with_name(f"{path.name}.xz")
    if not packed.exists():
        return decode_lines(path, read_bytes(path))
    try:
        return decode_lines(packed, lzma.decompress(packed.read_bytes()))
    except (lzma.LZMAError, EOFError) as error:
        raise InputError(f"{packed}: not a whole .xz file ({error}); copy or fetch it again") from None


def unpack(options: argparse.Namespace) -> None:
    """Writes `<split>.<language>` and `report.json` with the training pairs of each source.

    Raises:
        InputError: a file is missing or damaged, or the lines of two files are not as many.
    """
    text = {f"{s}.{language}": read_packed(options.data / f"{s}.{language}") for s in SPLITS for language in options.languages}
    sources = read_packed(options.data / "train.src")
    first, second = options.languages
    for one, other in *((f"{split}.{first}", f"{split}.{second}") for split in SPLITS), (f"train.{first}", "train.src"):
        counts = len(text[one]), len(text.get(other, sources))
        if counts[0] != counts[1]:
            both = f"{one} has {counts[0]:,} lines, {other} has {counts[1]:,}"
            raise InputError(f"{options.data}: {both}; line n of one belongs to line n of the other")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, lines in text.items():
        write_lines(options.out / name, lines)
    counts = {split: len(text[f"{split}.{first}"]) for split in SPLITS}
    report = {split: {"lines_in": count, "lines_out": count} for split, count in counts.items()}
    report["train"]["sources"] = dict(Counter(sources).most_common())
    write_report(options.out / "report.json", report)
    by_source = ", ".join(f"{name} {count:,}" for name, count in report["train"]["sources"].items())
    print(f"train: {counts['train']:,} lines in and out, none dropped: {by_source}")
    print(f"valid: {counts['valid']:,} lines, test: {counts['test']:,} lines in and out, none dropped")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the corpus")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--languages", nargs=2, required=True, metavar=("SOURCE", "TARGET"), help="such as en de")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: unpack(parse_options()))
