"""Shards of a training set's translation: which lines each holds, and whether it holds them whole.

Shard i of n is two files, the text `<i>-of-<n>.txt`, a hypothesis a line in the order of the training set, and, written after
it, `<i>-of-<n>.json` with the number of its lines and its checksum. A shard stands where the two agree.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.parallel_text import InputError, read_report, write_report
from common.whole_file import whole_file


@dataclass(frozen=True)
class Shard:
    """One of `count` shards, from number 0 on, of a training set of `sentences` lines."""

    folder: Path
    number: int
    count: int
    sentences: int

    @property
    def lines(self) -> range:
        """The lines of the training set, from 0 on, that it holds: as many as any other, or one more or less."""
        return range(self.sentences * self.number // self.count, self.sentences * (self.number + 1) // self.count)

    @property
    def text(self) -> Path:
        return self.folder / f"{self.number:04d}-of-{self.count:04d}.txt"

    @property
    def stamp(self) -> Path:
        return self.text.with_suffix(".json")

    def fault(self) -> str | None:
        """What keeps the shard from standing, or None."""
        if not self.stamp.exists() or not self.text.exists():
            return "not decoded yet"
        data = self.text.read_bytes()
        lines = data.count(b"\n")
        if lines != len(self.lines):
            return f"{lines:,} sentences where {len(self.lines):,} were decoded"
        try:
            checksum = read_report(self.stamp)["sha256"]
        except (json.JSONDecodeError, KeyError, TypeError):
            return f"{self.stamp.name} is damaged"
        return None if hashlib.sha256(data).hexdigest() == checksum else "its text differs from what was decoded"

    def write(self, hypotheses: list[str], facts: dict[str, Any]) -> None:
        """Makes it stand; `facts` go into the stamp.

        Raises:
            InputError: not as many hypotheses as lines.
        """
        if len(hypotheses) != len(self.lines):
            raise InputError(f"{self.text}: {len(self.lines):,} sentences in, {len(hypotheses):,} out")
        data = "".join(hypothesis + "\n" for hypothesis in hypotheses).encode("utf-8")
        with whole_file(self.text) as part:
            part.write_bytes(data)
        with whole_file(self.stamp) as part:
            write_report(part, {"sentences": len(hypotheses), "sha256": hashlib.sha256(data).hexdigest(), **facts})

    def read(self) -> tuple[list[str], dict[str, Any]]:
        """Its hypotheses and its stamp.

        Raises:
            InputError: it doesn't stand.
        """
        fault = self.fault()
        if fault:
            raise InputError(f"{self.text}: {fault}; run distill.sh again to decode it")
        return self.text.read_text(encoding="utf-8").split("\n")[:-1], read_report(self.stamp)


def all_shards(folder: Path, count: int, sentences: int) -> list[Shard]:
    """The shards of a training set, in order.

    Raises:
        InputError: more shards than sentences.
    """
    if count > sentences:
        raise InputError(f"SHARDS={count:,}: more than the {sentences:,} sentences of the training set")
    return [Shard(folder, number, count, sentences) for number in range(count)]
