"""A small parallel corpus, to be spoilt, and prepared through the real command line."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.scripts.refusals import assert_says

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "valid", "test")


@dataclass
class Corpus:
    """Raw files of a small corpus, made where the folder is missing, to be spoilt; and a way to prepare them."""

    folder: Path
    out: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder.exists():
            return
        self.folder.mkdir()
        nouns = [("dog", "Hund"), ("man", "Mann"), ("tree", "Baum"), ("hat", "Hut")]
        pairs = [
            (f"The {a} sees no. {n} and the {b}.", f"Der {c} sieht Nr. {n} und den {d}.")
            for n in range(5)
            for a, c in nouns
            for b, d in nouns
        ]
        for split, chosen in zip(SPLITS, (pairs[:60], pairs[60:70], pairs[70:]), strict=True):
            for language, lines in zip(("en", "de"), zip(*chosen, strict=True), strict=True):
                self.write(split, language, list(lines))

    def path(self, split: str, language: str) -> Path:
        return self.folder / f"{split}.{language}"

    def lines(self, split: str, language: str) -> list[str]:
        return self.path(split, language).read_text(encoding="utf-8").split("\n")[:-1]

    def write(self, split: str, language: str, lines: list[str]) -> None:
        self.path(split, language).write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")

    def set_line(self, split: str, language: str, number: int, text: str) -> None:
        lines = self.lines(split, language)
        lines[number - 1] = text
        self.write(split, language, lines)

    def command(self, **variables: str) -> dict:
        settings = {"DATA": str(self.folder), "OUT": str(self.out), "BPE_OPERATIONS": "30", "WORKERS": "1"}
        names = {"TRAIN": "train", "VALID": "valid", "TEST": "test", "MOMENTUM_ENV": sys.prefix}
        environment = {**os.environ, **settings, **names, **self.variables, **variables}
        return {"args": ["bash", str(ROOT / "scripts/prepare_parallel.sh")], "env": environment, "cwd": "/"}

    def prepare(self, limit_kib: int | None = None, **variables: str) -> subprocess.CompletedProcess:
        command = self.command(**variables)
        if limit_kib:
            command["args"] = ["bash", "-c", f'ulimit -f {limit_kib}; exec "$@"', "bash", *command["args"]]
        return subprocess.run(**command, capture_output=True, text=True)

    def report(self) -> dict:
        return json.loads((self.out / "report.json").read_text(encoding="utf-8"))


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_refused(corpus: Corpus, *words: str, **variables: str) -> None:
    """The preparation fails, says these words, and leaves neither a stage's half nor a data-bin."""
    assert_says(corpus.prepare(**variables), *words)
    assert not list(corpus.out.glob("*.part*"))
    assert not (corpus.out / "data-bin").exists()
