"""Tables in Markdown."""

import re


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table; what would end a cell or a line within one is written so that it doesn't."""
    return "\n".join("| " + " | ".join(map(within_cell, line)) + " |" for line in [header, ["---"] * len(header), *lines])


def within_cell(text: str) -> str:
    return re.sub(r"\s*[\r\n]+\s*", " ", text).replace("|", r"\|")
