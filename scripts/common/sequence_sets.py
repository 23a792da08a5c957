"""What the scripts that make labelled sequences share: their options, generation in shards, and writing a set once.

A generated set is a stream of examples, made in blocks of fixed size, each drawn from the seed and its own number alone. So the
bytes don't depend on how many processes make it or how often it is interrupted; and the stream gives test and dev first, so
that these are the same for every number of training examples.
"""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from common.end_with_parent import end_with_parent
from common.parallel_text import InputError, run
from common.run_record import run_record
from common.whole_file import whole_file
from momentum_fairseq.data.labelled_sequences import SPLITS, LabelledSequences, SequenceError, SequenceWriter, checksum, read_meta

Settings = dict[str, Any]


class Block(NamedTuple):
    """Examples: all tokens one after the other, int64 `[n]` lengths and labels."""

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def flatten(sequences: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes as tokens, one after the other, and their lengths."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    return np.frombuffer(b"".join(sequences), dtype=np.uint8), lengths


def add_options(parser: argparse.ArgumentParser, counts: tuple[int, int, int], *, workers: bool) -> None:
    """The options that all have: where to, how many, the seed, and for generators the processes."""
    default = " ".join(map(str, counts))
    names = tuple(map(str.upper, SPLITS))
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument(
        "--counts", type=int, nargs=3, default=list(counts), metavar=names, help=f"examples of each split (default: {default})"
    )
    parser.add_argument("--seed", type=int, default=1, help="what is drawn follows from it (default: %(default)s)")
    if workers:
        cores = len(os.sched_getaffinity(0))
        parser.add_argument("--workers", type=int, default=cores, help="processes; they change no byte (default: one a core)")


def check_options(options: argparse.Namespace) -> None:
    """Refuse numbers out of range.

    Raises:
        InputError: an option, by name.
    """
    for split, count in zip(SPLITS, options.counts, strict=True):
        if count < 1:
            raise InputError(f"--counts: {count} examples of {split}; at least 1 is needed")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed {options.seed}: must be in 0 … 2^32 − 1")
    max_length = getattr(options, "max_length", None)
    if max_length is not None and max_length < 1:
        raise InputError(f"--max-length {max_length}: must be at least 1")
    if getattr(options, "workers", 1) < 1:
        raise InputError(f"--workers {options.workers}: must be at least 1")


def run_step(step: Callable[[], None]) -> NoReturn:
    """As parallel_text.run; what a prepared set's reader or writer refuses is said in one line, too."""

    def checked() -> None:
        try:
            step()
        except SequenceError as error:
            raise InputError(str(error)) from None

    run(checked)


def stands(out: Path, settings: Settings) -> bool:
    """Whether `out` holds the set made with these settings, whole.

    Raises:
        InputError: it holds another set. SequenceError: files of it are damaged.
    """
    if not (out / "meta.json").is_file():
        return False
    made_with = read_meta(out).get("settings", {})
    # As JSON gives them back.
    wanted = json.loads(json.dumps(settings))
    if made_with != wanted:
        keys = [key for key in {**made_with, **wanted} if made_with.get(key) != wanted.get(key)]
        changes = ", ".join(f"{key} {made_with.get(key)!r}, now {wanted.get(key)!r}" for key in keys)
        raise InputError(f"{out}: made with other settings ({changes}); remove it or name another folder")
    for split in SPLITS:
        LabelledSequences(out, split)
    print(f"{out}: stands, nothing to do")
    return True


def write_set(
    out: Path,
    settings: Settings,
    vocabulary: int,
    classes: int,
    splits: dict[str, tuple[Any, ...]],
    facts: dict[str, dict[str, Any]] | None = None,
    **notes: Any,
) -> None:
    """Write all splits, then say what was written.

    Args:
        splits: name → (labels, (tokens, lengths)), for pairs (labels, (tokens, lengths), (tokens, lengths)).
        facts: name → further entries of the split in meta.json. notes: further entries of the set.
    """
    writer = SequenceWriter(out, vocabulary, classes, parts=len(next(iter(splits.values()))) - 1)
    for split, (labels, *parts) in splits.items():
        balance = np.bincount(labels, minlength=classes).tolist()
        writer.write(split, labels, *parts, by_label=balance, **(facts or {}).get(split, {}))
        longest = max(lengths.max() for _, lengths in parts)
        print(f"{out}: {split} {len(labels):,} examples, by label {balance}, longest {longest:,}")
    writer.finish(settings=settings, **notes, made=run_record(sys.argv))


def generate_set(
    out: Path, settings: Settings, vocabulary: int, classes: int, make: Callable[[int], Block], block: int, workers: int
) -> None:
    """Generate the set in shards, side by side, unless it stands. Shards that stand are not made again.

    Args:
        settings: all that the set depends on; `counts` are the numbers of examples.
        make: the block of a number, `block` examples; a function that processes can be given.

    Raises:
        InputError: there are not as many distinct examples; a process was killed.
    """
    if stands(out, settings):
        return
    shards = out / "shards"
    claim(shards, settings)
    total = sum(settings["counts"])
    first = range(-(-total // block))
    try:
        with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
            list(pool.map(make_shard, itertools.repeat(shards), first, itertools.repeat(make)))
    except BrokenProcessPool:
        raise InputError(f"{shards}: a process was killed (out of memory?); run again to go on, with fewer --workers") from None
    whole = distinct(read_shards(shards, make), total)
    splits, begin = {}, 0
    for split, count in sorted(zip(SPLITS, settings["counts"], strict=True), key=lambda item: SPLITS[::-1].index(item[0])):
        splits[split] = take(whole, begin, begin + count)
        begin += count
    write_set(out, settings, vocabulary, classes, {split: splits[split] for split in SPLITS})
    shutil.rmtree(shards)


def claim(shards: Path, settings: Settings) -> None:
    """Make the folder of shards, or take the one that an interrupted run with the same settings left.

    Raises:
        InputError: it was left by a run with other settings.
    """
    shards.mkdir(parents=True, exist_ok=True)
    note, text = shards / "settings.json", json.dumps(settings)
    if note.exists() and note.read_text(encoding="utf-8") != text:
        raise InputError(f"{shards}: left by a run with other settings; remove it or name another folder")
    with whole_file(note, own_ending()) as part:
        part.write_text(text, encoding="utf-8")


def make_shard(shards: Path, number: int, make: Callable[[int], Block]) -> Path:
    """Make a shard unless it stands."""
    path = shards / f"{number:06d}.npz"
    if not path.exists():
        block = make(number)
        with whole_file(path, own_ending()) as part, part.open("wb") as file:
            np.savez(file, **block._asdict())
    return path


def own_ending() -> str:
    """What another run with the same settings writes at the same time has another name."""
    return f".part.{os.getpid()}"


def read_shards(shards: Path, make: Callable[[int], Block]) -> Iterator[Block]:
    """All blocks from number 0 on, without end; those that are not there yet are made."""
    for number in itertools.count():
        with np.load(make_shard(shards, number, make)) as file:
            yield Block(**file)


def distinct(blocks: Iterable[Block], count: int) -> Block:
    """The first `count` examples whose tokens no earlier one has.

    Raises:
        InputError: a block brings no new one.
    """
    seen: set[bytes] = set()
    parts = []
    for tokens, lengths, labels in blocks:
        ends = np.cumsum(lengths)
        before, kept = len(seen), np.zeros(len(lengths), dtype=bool)
        for i, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            digest = digest_of(tokens[end - length : end])
            if digest not in seen and len(seen) < count:
                seen.add(digest)
                kept[i] = True
        if len(seen) == before:
            raise InputError(f"{count:,} examples wanted, but there seem to be only {before:,} distinct ones; ask for fewer")
        parts.append(Block(tokens[np.repeat(kept, lengths)], lengths[kept], labels[kept]))
        if len(seen) == count:
            return Block(*map(np.concatenate, zip(*parts, strict=True)))
    raise AssertionError("the blocks have no end")


def digest_of(tokens: np.ndarray) -> bytes:
    """Sixteen bytes that stand for a sequence."""
    return hashlib.blake2b(tokens, digest_size=16).digest()


def take(block: Block, begin: int, end: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Labels, tokens and lengths of the examples from `begin` to `end`."""
    offsets = np.concatenate([[0], np.cumsum(block.lengths)])
    return block.labels[begin:end], (block.tokens[offsets[begin] : offsets[end]], block.lengths[begin:end])


def choose(labels: np.ndarray, counts: list[int], seed: int, source: str) -> list[np.ndarray]:
    """Examples drawn apart, `counts` of them, the classes in proportion: the numbers of each, ascending.

    Raises:
        InputError: there are fewer; `source` names where.
    """
    if sum(counts) > len(labels):
        wanted = " + ".join(f"{count:,}" for count in counts)
        raise InputError(f"{source}: {len(labels):,} examples, too few for {wanted}; ask for fewer with --counts")
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    ends = np.cumsum(counts)
    in_proportion = np.lexsort((labels, place))[: ends[-1]]
    return [np.sort(part) for part in np.split(in_proportion, ends[:-1])]


def cut(texts: list[bytes], max_length: int | None) -> tuple[list[bytes], dict[str, int]]:
    """The first `max_length` bytes of each, and how many texts and bytes lost something; None cuts nothing."""
    if max_length is None:
        return texts, {}
    lengths = np.array([len(text) for text in texts])
    over = np.maximum(lengths - max_length, 0)
    return [text[:max_length] for text in texts], {"texts_cut": int((over > 0).sum()), "bytes_cut": int(over.sum())}


def fingerprint(files: Iterable[Path], root: Path) -> str:
    """One checksum of the files' names and contents.

    Raises:
        InputError: one is missing.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        digest.update(f"{path.relative_to(root)} {checksum(path)}\n".encode())
    return digest.hexdigest()
