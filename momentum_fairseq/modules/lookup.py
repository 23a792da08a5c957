"""Parts that are chosen by name."""

from typing import TypeVar

T = TypeVar("T")


def lookup(table: dict[str, T], name: str, what: str, hint: str = "") -> T:
    """`table[name]`, or a ValueError that names the value and the choices, and ends with the hint."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(sorted(table))}{hint}")
    return table[name]
