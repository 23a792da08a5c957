"""Learns a joint BPE (Sennrich et al. 2016) on a tokenised parallel corpus, or takes given codes, and applies it.

The merges may build units in validation and test that training never has, and each would be read as <unk>. They are
split again until each unit is known (subword-nmt's vocabulary filter), which leaves only unseen characters unknown.
"""

import argparse
import contextlib
import io
from collections import Counter
from itertools import compress
from pathlib import Path

from common.parallel_text import SPLITS, InputError, Report, read_lines, read_report, run, write_lines, write_report
from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe

# fairseq's models number 1,024 positions unless told otherwise; two go to BOS and EOS.
MAX_SUBWORDS = 1022


def learn_codes(lines: list[str], operations: int) -> str:
    """Returns the text of a codes file with at most `operations` merges, fewer where no pair occurs twice.

    Raises:
        InputError: there is no pair to merge.
    """
    codes = io.StringIO()
    # What goes to stderr is a progress bar; max() of nothing is how it says that no word has two characters.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(ValueError):
        learn_bpe(lines, codes, operations)
    if codes.getvalue().count("\n") < 2:
        raise InputError("training text: no two characters stand together twice, so there is nothing for BPE to merge")
    return codes.getvalue()


def read_codes(path: Path) -> str:
    """Reads a codes file.

    Raises:
        InputError: it can't be read or a line isn't a pair of units.
    """
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.startswith("#version:") and len(line.split(" ")) != 2:
            raise InputError(f"{path}:{number}: not a line of BPE codes, which is two units and a space between")
    return "\n".join(lines) + "\n"


def read_dictionary(path: Path) -> set[str]:
    """Reads the units of a fairseq dictionary.

    Raises:
        InputError: it can't be read or a line isn't a unit and its count.
    """
    units = set()
    for number, line in enumerate(read_lines(path), start=1):
        unit, _, count = line.rpartition(" ")
        if not unit or not count.isdigit():
            raise InputError(f"{path}:{number}: not a line of a fairseq dictionary, which is a unit and its count")
        units.add(unit)
    return units


def encode(lines: list[str], bpe: BPE) -> list[str]:
    """Splits each word of tokenised lines into sub-words, `@@` after each but a word's last."""
    return [bpe.process_line(line) for line in lines]


def known_units(train: dict[str, list[str]], codes: str, options: argparse.Namespace) -> dict[str, set[str]]:
    """For each language, the units its dictionary will have: a given one's, else those of the training text."""
    given = {options.source_lang: options.source_dictionary, options.target_lang: options.target_dictionary}
    bpe = BPE(io.StringIO(codes))
    units = {
        language: read_dictionary(given[language]) if given[language] else set(" ".join(encode(lines, bpe)).split())
        for language, lines in train.items()
    }
    if not options.joined:
        return units
    shared = [units[language] for language in units if given[language]] or list(units.values())
    return dict.fromkeys(units, set.union(*shared))


def encode_train(
    text: dict[str, list[str]], codes: str, options: argparse.Namespace
) -> tuple[dict[str, list[str]], dict[str, set[str]]]:
    """The training pairs in sub-words, without those longer than fairseq's models take, and the units then known.

    Raises:
        InputError: no pair is left.
    """
    units = known_units(text, codes, options)
    train = {language: encode(lines, BPE(io.StringIO(codes), vocab=units[language])) for language, lines in text.items()}
    fits = [max(line.count(" ") for line in pair) < MAX_SUBWORDS for pair in zip(*train.values(), strict=True)]
    if all(fits):
        return train, units
    if not any(fits):
        raise InputError(f"training text: no pair is left, each of {len(fits):,} has more than {MAX_SUBWORDS:,} sub-words")
    # fairseq makes its dictionary of the pairs kept: what only the others have is unknown.
    units = known_units({language: list(compress(lines, fits)) for language, lines in text.items()}, codes, options)
    return {language: list(compress(lines, fits)) for language, lines in train.items()}, units


def count_unknown(lines: list[str], units: set[str]) -> Report:
    """Counts sub-words and those that will be read as <unk>, which a literal `<unk>` is; names the most frequent of these."""
    counts = Counter(unit for line in lines for unit in line.split(" "))
    unknown = Counter({unit: count for unit, count in counts.items() if unit not in units or unit == "<unk>"})
    total = counts.total()
    examples = [unit for unit, _ in unknown.most_common(10)]
    return {"subwords": total, "unk": unknown.total(), "unk_rate": unknown.total() / total, "unk_examples": examples}


def encode_corpus(options: argparse.Namespace) -> None:
    """Writes `codes`, `<split>.<language>` in sub-words, and `report.json` with the rate of <unk> in each file.

    A training pair longer than fairseq's models take is dropped and counted.

    Raises:
        InputError: a validation or test line is that long, or every training pair.
    """
    languages = (options.source_lang, options.target_lang)
    report = read_report(options.tokenised / "report.json")
    text = {s: {language: read_lines(options.tokenised / f"{s}.{language}") for language in languages} for s in SPLITS}
    both = [line for language in languages for line in text["train"][language]]
    codes = read_codes(options.codes) if options.codes else learn_codes(both, options.operations)
    train, units = encode_train(text["train"], codes, options)
    options.out.mkdir(parents=True, exist_ok=True)
    for language in languages:
        bpe = BPE(io.StringIO(codes), vocab=units[language])
        for split in SPLITS:
            lines = train[language] if split == "train" else encode(text[split][language], bpe)
            too_long = [number for number, line in enumerate(lines, 1) if line.count(" ") >= MAX_SUBWORDS]
            if too_long:
                where = f"{getattr(options, split)}.{language}:{too_long[0]}"
                length = lines[too_long[0] - 1].count(" ") + 1
                raise InputError(f"{where}: {length:,} sub-words, more than {MAX_SUBWORDS:,}; split or remove the pair")
            write_lines(options.out / f"{split}.{language}", lines)
            report[split][language] = count_unknown(lines, units[language])
    (options.out / "codes").write_text(codes, encoding="utf-8", newline="\n")
    lines_in, lines_out = report["train"]["lines_out"], len(train[options.source_lang])
    report["train"]["lines_out"] = lines_out
    report["train"]["dropped"]["too_many_subwords"] = lines_in - lines_out
    write_report(options.out / "report.json", report)
    for split in SPLITS:
        rates = (f"{language} {report[split][language]['unk_rate']:.3%}" for language in languages)
        lines = f"{report[split]['lines_out']:,} lines in and out"
        if split == "train":
            lines = f"{lines_in:,} lines in, {lines_out:,} out, dropped because too many sub-words {lines_in - lines_out:,}"
        print(f"{split}: {lines}, unknown sub-words (<unk>) {', '.join(rates)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenised", type=Path, help="folder that clean_parallel.py wrote")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--source-lang", required=True, help="what is translated from, such as en")
    parser.add_argument("--target-lang", required=True, help="and into, such as de")
    parser.add_argument("--valid", required=True, help="raw validation files without language, to name in errors")
    parser.add_argument("--test", required=True, help="raw test files without language, to name in errors")
    parser.add_argument("--operations", type=int, required=True, help="merges to learn")
    parser.add_argument("--codes", type=Path, help="codes to take in place of learning them")
    parser.add_argument("--source-dictionary", type=Path, help="fairseq dictionary that will be used for the source")
    parser.add_argument("--target-dictionary", type=Path, help="fairseq dictionary that will be used for the target")
    parser.add_argument("--joined", action="store_true", help="one dictionary for both languages")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: encode_corpus(parse_options()))
