"""Moses-tokenises a raw parallel corpus and drops the training pairs a model can't learn from, counting why."""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from multiprocessing import Pool
from pathlib import Path

from common.parallel_text import SPLITS, InputError, read_parallel, run, write_lines, write_report
from sacremoses import MosesPunctNormalizer, MosesTokenizer

# The characters at which some reader of text files ends a line; a line feed can't occur inside a line.
LINE_BREAKS = re.compile("[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
CONTROL_CHARACTERS = dict.fromkeys(range(32))
# fairseq's ids 0 to 2. BPE may leave one whole at a word's end; Moses escapes its angles, tokenised text comes as it is.
CONTROL_SYMBOL = re.compile("(<s>|<pad>|</s>)(?: |$)")
# A "word" that long (a URL, base64) becomes hundreds of sub-words, which a limit on words alone doesn't see.
CHARACTERS_PER_WORD = 20


@cache
def moses_tokenizer(language: str) -> MosesTokenizer:
    """The tokeniser of a language, made once in each process."""
    return MosesTokenizer(language)


@cache
def punctuation_normalizer(language: str) -> MosesPunctNormalizer:
    """Moses' normaliser of a language's punctuation, made once in each process."""
    return MosesPunctNormalizer(language)


def tokenize(text: str, language: str, normalize: bool, tokenized: bool, lowercase: bool) -> str:
    """Returns the tokens of a line joined by single spaces, with no other white space and no control characters.

    The same tokens as fairseq's `--tokenizer moses`, so that `fairseq-interactive` reads raw text as training did; where
    `normalize` is set, of text with Moses' normalised punctuation.
    """
    if normalize:
        text = punctuation_normalizer(language).normalize(text)
    if not tokenized:
        text = moses_tokenizer(language).tokenize(text, return_str=True, aggressive_dash_splits=True, escape=True)
    text = " ".join(" ".join(text.split()).translate(CONTROL_CHARACTERS).split())
    return text.lower() if lowercase else text


def tokenize_all(lines: list[str], language: str, options: argparse.Namespace) -> list[str]:
    """Tokenises lines in `--workers` processes, in order."""
    steps = (options.normalize, options.tokenized, options.lowercase)
    jobs = ((line, language, *steps) for line in lines)
    if options.workers == 1 or len(lines) < 5000:  # below this, starting the processes costs more than it saves
        return [tokenize(*job) for job in jobs]
    with Pool(options.workers) as pool:
        return pool.starmap(tokenize, jobs, chunksize=1000)


def refuse_control_symbols(place: str, lines: list[str]) -> None:
    """Checks that no word is, or ends in, a symbol that fairseq reads as a sentence's beginning, end or padding.

    Raises:
        InputError: one is.
    """
    for number, line in enumerate(lines, start=1):
        if found := CONTROL_SYMBOL.search(line):
            escaped = found[1].replace("<", "&lt;").replace(">", "&gt;")
            raise InputError(f"{place}:{number}: {found[1]} is a control symbol of fairseq's; remove it or write {escaped}")


def reason_to_drop(source: str, target: str, max_length: int, max_ratio: float) -> str | None:
    """Says why a tokenised training pair is dropped (`empty`, `too_long`, `ratio`), or None where it is kept."""
    lengths = sorted((len(source.split()), len(target.split())))
    if lengths[0] == 0:
        return "empty"
    if lengths[1] > max_length or max(len(source), len(target)) > CHARACTERS_PER_WORD * max_length:
        return "too_long"
    if lengths[1] > max_ratio * lengths[0]:
        return "ratio"
    return None


def clean_train(pairs: Iterable[tuple[str, str]], options: argparse.Namespace) -> tuple[list[tuple[str, str]], Counter]:
    """Returns the pairs kept and, by reason, how many were dropped."""
    kept, dropped = [], Counter(empty=0, too_long=0, ratio=0)
    for source, target in pairs:
        reason = reason_to_drop(source, target, options.max_length, options.max_ratio)
        if reason:
            dropped[reason] += 1
        else:
            kept.append((source, target))
    if not kept:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
        raise InputError(f"{options.data / options.train}: no pair is left, dropped because {counts}")
    return kept, dropped


def write_pairs(prefix: Path, languages: tuple[str, str], pairs: list[tuple[str, str]]) -> None:
    """Writes `prefix.<language>` for both languages."""
    for language, lines in zip(languages, zip(*pairs, strict=True), strict=True):
        write_lines(Path(f"{prefix}.{language}"), lines)


def clean(options: argparse.Namespace) -> None:
    """Writes `<split>.<language>` tokenised, `ref.<split>.<language>` raw for valid and test, and `report.json`.

    Validation and test keep every line: scores are of whole sets, so a line that can't be translated is an error.
    """
    languages = (options.source_lang, options.target_lang)
    # Everything is read before anything is tokenised: a fault in the smallest file is told at once.
    raw = {split: read_parallel(options.data / getattr(options, split), languages) for split in SPLITS}
    options.out.mkdir(parents=True, exist_ok=True)
    report = {}
    for split in reversed(SPLITS):
        sides = zip(raw[split], languages, strict=True)
        tokenized = [tokenize_all(lines, language, options) for lines, language in sides]
        for language, lines in zip(languages, tokenized, strict=True):
            refuse_control_symbols(f"{options.data / getattr(options, split)}.{language}", lines)
        pairs = list(zip(*tokenized, strict=True))
        if split == "train":
            kept, dropped = clean_train(pairs, options)
            report[split] = {"lines_in": len(pairs), "lines_out": len(kept), "dropped": dict(dropped)}
            write_pairs(options.out / split, languages, kept)
            continue
        for language, lines in zip(languages, tokenized, strict=True):
            if "" in lines:
                where = f"{options.data / getattr(options, split)}.{language}:{lines.index('') + 1}"
                raise InputError(f"{where}: empty line; {split} sets lose no line, so remove the pair from both files")
        report[split] = {"lines_in": len(pairs), "lines_out": len(pairs)}
        write_pairs(options.out / split, languages, pairs)
        references = [[LINE_BREAKS.sub(" ", line) for line in lines] for lines in raw[split]]
        write_pairs(options.out / f"ref.{split}", languages, list(zip(*references, strict=True)))
    write_report(options.out / "report.json", {split: report[split] for split in SPLITS})
    train = report["train"]
    reasons = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in train["dropped"].items())
    print(f"train: {train['lines_in']:,} lines in, {train['lines_out']:,} out, dropped because {reasons}")
    print(f"valid: {report['valid']['lines_in']:,} lines, test: {report['test']['lines_in']:,} lines, none dropped")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of <name>.<language> files")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--source-lang", required=True, help="what is translated from, such as en")
    parser.add_argument("--target-lang", required=True, help="and into, such as de")
    for split in SPLITS:
        parser.add_argument(f"--{split}", required=True, help=f"name of the {split} files without language")
    parser.add_argument("--max-length", type=int, required=True, help="most tokens in a training line")
    parser.add_argument("--max-ratio", type=float, required=True, help="most tokens of one side per token of the other")
    parser.add_argument("--normalize", action="store_true", help="normalise punctuation as Moses does, the references not")
    parser.add_argument("--lowercase", action="store_true", help="lower-case the text, the references not")
    parser.add_argument("--tokenized", action="store_true", help="the files are tokenised already")
    parser.add_argument("--workers", type=int, default=1, help="processes; they change no byte (1)")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: clean(parse_options()))
