"""Labelled token sequences on disk: written whole or not at all, read through a memory map that all workers share.

A folder holds, for each split (train, dev, test), `<split>.tokens.npy` (all sequences one after the other, uint8 or uint16),
`<split>.offsets.npy` (int64 `[n+1]`: sequence i is tokens[offsets[i]:offsets[i+1]]) and `<split>.labels.npy` (int64 `[n]`); sets
of pairs also `<split>.tokens2.npy` and `<split>.offsets2.npy`. `meta.json`, written last, says that the folder is whole, how it
was made, and the counts and checksums of all files. Tokens are 0 … vocabulary − 1, and none of them is padding.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "dev", "test")
REMEDY = "prepare the folder anew (scripts/prepare_lra.sh)"


class SequenceError(ValueError):
    """Files that are missing or don't agree: the message names the file and what to do."""


class LabelledSequences:
    """One split of a folder. Nothing but labels and offsets is read on opening; an item reads its own tokens.

    Processes that load data share the pages of the map; one that is started afresh opens it again instead of a copy.

    Args:
        folder: as `SequenceWriter` wrote it. split: `train`, `dev` or `test`.

    Attributes:
        meta: what `meta.json` says. vocabulary, classes: how many tokens and labels there are.
        labels: int64 `[n]`. lengths: int64 `[parts, n]`. sizes: int64 `[n]`, the longest part of each item.

    Raises:
        SequenceError: a file is missing, truncated, or doesn't agree with the others.
    """

    def __init__(self, folder: Path | str, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self.meta = read_meta(self.folder)
        if split not in self.meta["splits"]:
            raise SequenceError(f"{self.folder}: no split {split!r}; it has {', '.join(self.meta['splits'])}")
        self.vocabulary: int = self.meta["vocabulary"]
        self.classes: int = self.meta["classes"]
        self.labels = np.array(self._open("labels"))
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []
        for part in range(1, self.meta["parts"] + 1):
            ending = "" if part == 1 else str(part)
            self.parts.append((self._open(f"tokens{ending}"), np.array(self._open(f"offsets{ending}"))))
        self._check()
        self.lengths = np.stack([np.diff(offsets) for _, offsets in self.parts])
        self.sizes = self.lengths.max(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """The tokens, int64 `[N]` (of each part in turn), and the label, an int.

        Raises:
            IndexError: no such item. SequenceError: a token that is none of the vocabulary.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: {self.split} has items 0 to {len(self) - 1}, none {index}")
        return *(self._tokens(part, index) for part in range(len(self.parts))), int(self.labels[index])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return map(self.__getitem__, range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.split)

    def _tokens(self, part: int, index: int) -> Tensor:
        flat, offsets = self.parts[part]
        tokens = flat[offsets[index] : offsets[index + 1]]
        if (largest := tokens.max()) >= self.vocabulary:
            path = self._path("tokens" if part == 0 else f"tokens{part + 1}")
            where = f"item {index:,} has token {largest}"
            raise SequenceError(f"{path}: damaged: {where}, not one of 0 to {self.vocabulary - 1}; {REMEDY}")
        return torch.from_numpy(tokens.astype(np.int64))

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.split}.{name}.npy"

    def _open(self, name: str) -> np.ndarray:
        path = self._path(name)
        try:
            array = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise SequenceError(f"{path}: no such file; {REMEDY}") from None
        except (ValueError, EOFError) as error:
            raise SequenceError(f"{path}: truncated or damaged ({error}); {REMEDY}") from None
        if path.stat().st_size != array.offset + array.nbytes:
            raise SequenceError(f"{path}: {path.stat().st_size:,} bytes, {array.offset + array.nbytes:,} expected; {REMEDY}")
        wanted = ("uint8", "uint16") if name.startswith("tokens") else ("int64",)
        if array.ndim != 1 or array.dtype not in wanted:
            raise SequenceError(f"{path}: {array.dtype} {list(array.shape)}, not one row of {' or '.join(wanted)}; {REMEDY}")
        return array

    def _check(self) -> None:
        said = self.meta["splits"][self.split]["count"]
        if len(self) != said:
            raise SequenceError(f"{self._path('labels')}: {len(self):,} labels, {said:,} by meta.json; {REMEDY}")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if len(wrong):
            where = f"item {wrong[0]:,} has label {self.labels[wrong[0]]}"
            raise SequenceError(f"{self._path('labels')}: {where}, not one of 0 to {self.classes - 1}; {REMEDY}")
        for part, (tokens, offsets) in enumerate(self.parts, 1):
            path = self._path("offsets" if part == 1 else f"offsets{part}")
            if len(offsets) != said + 1:
                raise SequenceError(f"{path}: {len(offsets):,} offsets, not the {said + 1:,} of {said:,} sequences; {REMEDY}")
            if offsets[0] != 0 or offsets[-1] != len(tokens):
                raise SequenceError(f"{path}: from {offsets[0]} to {offsets[-1]}, not from 0 to {len(tokens)}; {REMEDY}")
            wrong = np.flatnonzero(np.diff(offsets) <= 0)
            if len(wrong):
                raise SequenceError(f"{path}: not ascending at item {wrong[0]:,}; {REMEDY}")


class SequenceWriter:
    """Writes a folder split by split; `finish` writes `meta.json`, without which none can be opened.

    Args:
        folder: made where there is none; a `meta.json` in it is removed at once.
        vocabulary, classes: tokens are below the one, labels below the other.
        parts: 2 for pairs of sequences.
    """

    def __init__(self, folder: Path | str, vocabulary: int, classes: int, parts: int = 1) -> None:
        if not 1 <= vocabulary <= 2**16:
            raise SequenceError(f"vocabulary of {vocabulary:,}: tokens are kept in at most 16 bits")
        self.folder, self.vocabulary, self.classes, self.parts = Path(folder), vocabulary, classes, parts
        self.token_type = np.uint8 if vocabulary <= 2**8 else np.uint16
        self.splits: dict[str, dict[str, Any]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "meta.json").unlink(missing_ok=True)

    def write(self, split: str, labels: np.ndarray, *parts: tuple[np.ndarray, np.ndarray], **facts: Any) -> None:
        """Write one split.

        Args:
            labels: integers `[n]`. parts: (tokens, lengths), all sequences one after the other and `[n]` lengths, once or,
                for pairs, twice. facts: further entries of the split in `meta.json`.

        Raises:
            SequenceError: an empty sequence, or counts, tokens or labels that don't fit.
        """
        self._check(split, labels, parts)
        arrays = {"labels": labels.astype(np.int64)}
        for ending, (tokens, lengths) in zip(("", "2"), parts, strict=False):
            arrays[f"tokens{ending}"] = tokens.astype(self.token_type, copy=False)
            arrays[f"offsets{ending}"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        files = {}
        for name, array in arrays.items():
            path = self.folder / f"{split}.{name}.npy"
            part = path.with_name(path.name + ".part")
            with part.open("wb") as file:
                np.save(file, array)
            part.replace(path)
            files[path.name] = checksum(path)
        self.splits[split] = {
            "count": len(labels),
            "longest": max(int(np.max(lengths)) for _, lengths in parts),
            "tokens": sum(len(tokens) for tokens, _ in parts),
            **facts,
            "sha256": files,
        }

    def finish(self, **facts: Any) -> None:
        """Write `meta.json`: the folder is whole. `facts`, such as the seed and the options, become entries of it."""
        meta = {
            **facts,
            "vocabulary": self.vocabulary,
            "classes": self.classes,
            "parts": self.parts,
            "longest": max(split["longest"] for split in self.splits.values()),
            "splits": self.splits,
        }
        path = self.folder / "meta.json"
        part = path.with_name("meta.json.part")
        part.write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)

    def _check(self, split: str, labels: np.ndarray, parts: tuple[tuple[np.ndarray, np.ndarray], ...]) -> None:
        where = f"{self.folder}: {split}"
        if len(parts) != self.parts or not len(labels):
            raise SequenceError(f"{where}: {len(labels):,} labels, {len(parts)} parts where there must be {self.parts}")
        if labels.min() < 0 or labels.max() >= self.classes:
            raise SequenceError(f"{where}: labels from {labels.min()} to {labels.max()}, not 0 to {self.classes - 1}")
        for tokens, lengths in parts:
            if len(lengths) != len(labels) or np.sum(lengths) != len(tokens):
                counts = f"{len(lengths):,} lengths of {np.sum(lengths):,} tokens"
                raise SequenceError(f"{where}: {counts} for {len(labels):,} labels and {len(tokens):,} tokens")
            if np.min(lengths) < 1:
                raise SequenceError(f"{where}: item {np.argmin(lengths):,} is empty")
            if tokens.min() < 0 or tokens.max() >= self.vocabulary:
                raise SequenceError(f"{where}: tokens from {tokens.min()} to {tokens.max()}, not 0 to {self.vocabulary - 1}")


def read_meta(folder: Path) -> dict[str, Any]:
    """What `meta.json` says.

    Raises:
        SequenceError: it is missing or lacks an entry.
    """
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SequenceError(f"{path}: no such file: not a prepared set, or not a whole one; {REMEDY}") from None
    except ValueError as error:
        raise SequenceError(f"{path}: damaged ({error}); {REMEDY}") from None
    missing = [key for key in ("vocabulary", "classes", "parts", "splits") if key not in meta]
    if missing:
        raise SequenceError(f"{path}: no entry {', '.join(missing)}; {REMEDY}")
    return meta


def verify(folder: Path) -> None:
    """Read every file of the folder and compare its checksum.

    Raises:
        SequenceError: a file is missing or isn't the one that was written.
    """
    for split in read_meta(folder)["splits"].values():
        for name, expected in split["sha256"].items():
            path = folder / name
            if not path.is_file():
                raise SequenceError(f"{path}: no such file; {REMEDY}")
            if checksum(path) != expected:
                raise SequenceError(f"{path}: not the file that meta.json describes (sha256 differs); {REMEDY}")


def checksum(path: Path) -> str:
    """Its sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
