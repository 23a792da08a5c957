"""Write the tables of Markdown files anew from the results beside them; the text between them stays as it is.

    python scripts/fill_readme.py examples/*/README.md

A table stands between two comments, the first of which names its file, relative to the Markdown file:

    <!-- results/attention.json -->                          all that common/benchmark_tables.py says of a benchmark
    <!-- results/small/table.md: bleu test, oracle -->       the table of that file whose heading begins so; its first without one
    <!-- end -->
"""

import argparse
import json
import re
from pathlib import Path

from common.benchmark_tables import describe
from common.whole_file import write_text

BLOCK = re.compile(r"(<!-- (?P<file>[\w./-]+\.(?:json|md))(?:: (?P<heading>[^>]+?))? -->\n).*?(?=<!-- end -->)", re.DOTALL)
OPENING = re.compile(r"<!-- [\w./-]+\.(?:json|md)\b")


def fill(text: str, folder: Path) -> str:
    """The text with every table written anew.

    Raises:
        ValueError: an opening comment without its end; a file that is missing, or not what it should be.
    """
    if not len(BLOCK.findall(text)) == len(OPENING.findall(text)) == text.count("<!-- end -->"):
        raise ValueError("a table's comment without `<!-- end -->`, or one too many of these")
    return BLOCK.sub(lambda block: block[1] + content(folder / block["file"], block["heading"]) + "\n", text)


def content(file: Path, heading: str | None) -> str:
    """What is to stand in a block."""
    try:
        text = file.read_text(encoding="utf-8")
        return describe(json.loads(text)) if file.suffix == ".json" else table(text, heading or "")
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{file}: {type(error).__name__}: {error}") from error


def table(text: str, heading: str) -> str:
    """The lines of the first table whose heading begins so."""
    found = [block for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE) if block.startswith(f"| {heading}")]
    if not found:
        raise ValueError(f"no table whose heading begins with {heading!r}")
    return found[0].rstrip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="Markdown files")
    for file in parser.parse_args().files:
        try:
            text = file.read_text(encoding="utf-8")
            filled = fill(text, file.parent)
        except (OSError, ValueError) as error:
            raise SystemExit(f"fill_readme.py: error: {file}: {error}") from error
        if filled != text:
            write_text(file, filled)
        print(f"{file}: {'written' if filled != text else 'as it was'}")


if __name__ == "__main__":
    main()
