"""Reading what evaluate.py wrote: results by row, checked to be of the same test sets, with the intervals of their scores."""

import json
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from common.bootstrap import resample, unpack
from common.seeds import clash

Key = tuple[str, str, str]  # split, lengths, steps


class Result:
    """One JSON file: a row's scores and speeds with one seed.

    Raises:
        SystemExit: not a result of evaluate.py, or one whose parts don't agree.
    """

    NEEDED = ("name", "date", "device", "threads", "updates", "git_revision", "seed", "text", "scores", "speeds")
    SCORE_NEEDED = ("split", "lengths", "steps", "bleu", "bleu_signature", "chrf", "chrf_signature")

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: {file}: not a result of evaluate.py ({error})") from error
        self._need(self.content, self.NEEDED, "")
        self.scores: dict[Key, dict[str, Any]] = {}
        for number, score in enumerate(self["scores"]):
            self._need(score, self.SCORE_NEEDED, f"scores[{number}]: ")
            self.scores[score["split"], score["lengths"], score["steps"]] = score
        self._resampled: dict[Key, np.ndarray] = {}

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def _need(self, content: Any, keys: Iterable[str], where: str) -> None:
        missing = [key for key in keys if not isinstance(content, dict) or key not in content]
        if missing:
            raise SystemExit(
                f"error: {self.file}: not a result of evaluate.py: {where}no {', '.join(missing)}; evaluate the checkpoint anew"
            )

    @property
    def data(self) -> dict[str, Any]:
        """What it was scored on; empty in results older than this entry."""
        return self.content.get("data", {})

    @cached_property
    def statistics(self) -> dict[Key, np.ndarray]:
        """Each sentence's BLEU statistics for each score, int64 `[sentences, 10]`; empty where none were kept.

        Raises:
            SystemExit: they are not of all scores, or of another number of sentences than the references.
        """
        kept = {}
        for split, text in self.content.get("sentence_statistics", {}).items():
            try:
                arrays = unpack(text, self.data["sets"][split]["sentences"])
            except (ValueError, KeyError) as error:
                raise SystemExit(f"error: {self.file}: {split}: {error}; evaluate the checkpoint anew") from error
            keys = [key for key in self.scores if key[0] == split]
            if len(keys) != len(arrays):
                raise SystemExit(f"error: {self.file}: {split} has {len(keys)} scores, but sentences of {len(arrays)}")
            kept.update(zip(keys, arrays, strict=True))
        return kept

    def resampled(self, key: Key) -> np.ndarray | None:
        """BLEU of the score's resamples, None where no sentences were kept."""
        if key not in self.statistics:
            return None
        if key not in self._resampled:
            self._resampled[key] = resample(self.statistics[key])
        return self._resampled[key]

    @property
    def marks(self) -> tuple[str, ...]:
        """What sets its scores apart from those of the plain protocol."""
        given = {
            "distilled": self.data.get("distilled"),
            "training set unknown": self.data.get("distilled", False) is None,
            "repeats removed": self.content.get("collapse_repeats"),
            f"length beam {self.content.get('length_beam')}": self.content.get("length_beam", 1) > 1,
            "re-scored": self.content.get("rescored"),
            self.content.get("dtype"): self.content.get("dtype", "float32") != "float32",
        }
        return tuple(mark for mark, holds in given.items() if holds)


class Row:
    """A row of the tables: the results of one name, a seed each; marks: those that tell it from other rows."""

    def __init__(self, name: str, marks: tuple[str, ...], results: list[Result]) -> None:
        self.name, self.marks, self.results = name, marks, results

    @property
    def label(self) -> str:
        return self.label_with("predicted")

    def label_with(self, lengths: str) -> str:
        """What the row is called in a table of this kind of length."""
        seeds = [f"{len(self.results)} seeds"] if len(self.results) > 1 else []
        return ", ".join([self.name, *marks_with(lengths, self.marks), *seeds])

    def repeats(self, other: "Row", split: str, lengths: str) -> bool:
        """Whether the other has the same label in a table, and all of this one's scores."""
        keys = {key for result in self.results for key in result.scores if key[:2] == (split, lengths)}
        return self.label_with(lengths) == other.label_with(lengths) and all(
            sorted(self.values(key, metric)) == sorted(other.values(key, metric)) for key in keys for metric in ("bleu", "chrf")
        )

    def values(self, key: Key, metric: str) -> list[float]:
        """The metric of every seed that has the score."""
        return [result.scores[key][metric] for result in self.results if key in result.scores]

    def speeds(self, kind: tuple[str, str] | None = None) -> list[dict[str, Any]]:
        """All speeds, or those of a kind, (batch, steps): one a seed that was timed so."""
        found = [speed for result in self.results for speed in result["speeds"]]
        return [speed for speed in found if kind in (None, (speed["batch"], speed["steps"]))]

    def resampled(self, key: Key) -> np.ndarray | None:
        """BLEU of the score's resamples, the mean over the seeds; None where a seed kept no sentences."""
        resampled = [result.resampled(key) for result in self.results if key in result.scores]
        if not resampled or any(scores is None for scores in resampled):
            return None
        return np.mean(resampled, axis=0)

    def mean(self, key: Key, metric: str = "bleu") -> float | None:
        values = self.values(key, metric)
        return mean(values) if values else None


def read_results(files: Iterable[Path]) -> list[Result]:
    """The results in the files, which are of the same test sets.

    Raises:
        SystemExit: a file that is none, or results that can't stand in one table.
    """
    results = [Result(file) for file in files]
    for result in results[1:]:
        check_comparable(results[0], result)
    for result in results:
        for other in results:
            check_same_sets(result, other)
    return results


def check_comparable(first: Result, other: Result) -> None:
    """Both scored by the same metrics on text of the same form."""
    for what in ("bleu_signature", "chrf_signature"):
        signatures = [{score[what] for score in result.scores.values()} for result in (first, other)]
        if all(signatures) and len(set.union(*signatures)) > 1:
            names = ", ".join(sorted(set.union(*signatures)))
            raise SystemExit(f"error: {first.file} and {other.file} have other signatures ({names}); make a table for each")
    if first["text"] != other["text"]:
        raise SystemExit(f"error: {first.file} has {first['text']} text and {other.file} {other['text']}; make a table for each")


def check_same_sets(first: Result, other: Result) -> None:
    """Both scored against the same references, as far as they say against which."""
    for split in first.data.get("sets", {}).keys() & other.data.get("sets", {}).keys():
        one, two = first.data["sets"][split], other.data["sets"][split]
        if one["sha256"] != two["sha256"]:
            raise SystemExit(
                f"error: {first.file} and {other.file} are of different {split} sets ({one['sentences']} sentences of "
                f"{one['name']}, {two['sentences']} of {two['name']}); make a table for each"
            )


def group_rows(results: list[Result]) -> list[Row]:
    """Rows by name and marks, in the order of the files. The label has those marks that not all results share.

    Raises:
        SystemExit: two results of one row and seed, or with other settings.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Result]] = defaultdict(list)
    for result in results:
        group = groups[result["name"], result.marks]
        for other in group:
            if why := clash(other.content, result.content):
                raise SystemExit(f"error: {other.file} and {result.file} are {why}")
        group.append(result)
    shared = shared_marks(results)
    return [Row(name, tuple(m for m in marks if m not in shared), group) for (name, marks), group in groups.items()]


def without_repeats(rows: list[Row], split: str, lengths: str) -> list[Row]:
    """The rows of a table without those that only repeat another: evaluations that differ in the length beam alone have the same
    scores with the references' lengths."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: -sum(len(result.scores) for result in row.results)):  # the fullest is kept
        if not any(row.repeats(other, split, lengths) for other in kept):
            kept.append(row)
    return [row for row in rows if row in kept]


def marks_with(lengths: str, marks: tuple[str, ...]) -> tuple[str, ...]:
    """The marks that hold for such lengths: with the references' no others are tried, and there is nothing to rank."""
    return tuple(mark for mark in marks if lengths != "oracle" or not mark.startswith(("length beam", "re-scored")))


def shared_marks(results: list[Result]) -> tuple[str, ...]:
    """The marks that all results have."""
    return tuple(mark for mark in results[0].marks if all(mark in result.marks for result in results))
