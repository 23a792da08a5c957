"""Takes a language pair's text out of an archive of the IWSLT evaluations (TED talks from WIT3): train, valid, test.

The metadata of the talks goes, entities are unescaped, talks that are also in the held-out sets leave the training text.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from common.archive_files import Found, find_files
from common.parallel_text import InputError, Report, run, write_lines, write_report
from common.wit3_text import align_segments, align_talks, read_segments, read_talks

Pairs = list[tuple[str, str]]


def find_corpus(archive: Path, source: str, target: str) -> tuple[str, dict[str, Found]]:
    """Finds the files of a language pair, published as source–target or, where there is no such, as target–source.

    Raises:
        InputError: the archive has no training text of the pair.
    """
    for pair in (f"{source}-{target}", f"{target}-{source}"):
        language = f"(?:{source}|{target})"
        wanted = re.compile(rf"train\.tags\.{pair}\.{language}|IWSLT[0-9]+\.\w+\.\w+\.{pair}\.{language}\.xml")
        # Until 2017 each pair had its archive inside that of the year; the multilingual one of 2017 had all pairs in one.
        inner = re.compile(rf"(?:{pair}|DeEnItNlRo-DeEnItNlRo)\.(?:tgz|tar\.gz|zip)")
        found = find_files(archive, wanted, inner)
        if any(name.startswith("train.tags.") for name in found):
            return pair, found
    raise InputError(
        f"{archive}: no train.tags.{source}-{target}.{source} in it nor in an archive inside it, "
        f"nor one of {target}-{source}; name IWSLT's archive of this language pair, or of the whole year"
    )


class Corpus:
    """The files of one language pair of one year."""

    def __init__(self, archive: Path, edition: str, languages: tuple[str, str]) -> None:
        self.archive, self.edition, self.languages = archive, edition, languages
        self.pair, self.files = find_corpus(archive, *languages)
        sets = sorted(name for name in self.files if name.startswith("IWSLT"))
        if sets and not any(name.startswith(f"IWSLT{edition}.") for name in sets):
            raise InputError(f"{archive}: this is IWSLT'{sets[0][5:7]} ({sets[0]}), not '{edition}; set EDITION={sets[0][5:7]}")

    def both(self, pattern: str) -> tuple[Found, Found]:
        """The files of both languages; `{}` in the pattern stands for the language.

        Raises:
            InputError: one is missing.
        """
        names = [pattern.format(language) for language in self.languages]
        for name in names:
            if name not in self.files:
                sets = {name.split(".")[2] for name in self.files if name.startswith(f"IWSLT{self.edition}.TED.")}
                there = f"its TED sets of {self.pair}: {', '.join(sorted(sets)) or 'none'}"
                raise InputError(f"{self.archive}: {name} is missing ({there}); name others by VALID and TEST, or fetch it again")
        source, target = (self.files[name] for name in names)
        return source, target

    def held_out(self, name: str) -> tuple[Pairs, set[str]]:
        """The sentence pairs of a set such as tst2013 (of TED) or TEDX.tst2013, and the numbers of its talks."""
        full_name = name if "." in name else f"TED.{name}"
        files = self.both(f"IWSLT{self.edition}.{full_name}.{self.pair}.{{}}.xml")
        source, target = (read_segments(file) for file in files)
        pairs = align_segments(source, target, (files[0].place, files[1].place))
        return pairs, {document for document, _ in source}

    def train(self, held_out: set[str]) -> tuple[Pairs, Report]:
        """The training pairs without those of held-out talks, and the lines in, out, and dropped."""
        files = self.both(f"train.tags.{self.pair}.{{}}")
        (source, source_tags), (target, target_tags) = (read_talks(file) for file in files)
        align_talks(source, target, (files[0].place, files[1].place))
        pairs: Pairs = []
        dropped = Counter(held_out=0)
        for ours, theirs in zip(source, target, strict=True):
            if ours.identity in held_out:
                dropped["held_out"] += len(ours.sentences)
            else:
                pairs += zip(ours.sentences, theirs.sentences, strict=True)
        sentences = sum(len(talk.sentences) for talk in source)
        sides = {}
        for language, tags in zip(self.languages, (source_tags, target_tags), strict=True):
            sides[language] = {"lines_in": sentences + tags.total(), "tags": dict(sorted(tags.items())), "sentences": sentences}
        return pairs, {**sides, "talks": len(source), "lines_out": len(pairs), "dropped": dict(dropped)}


def extract(options: argparse.Namespace) -> None:
    """Writes `<split>.<language>` and `report.json`, and says what went in and out.

    Raises:
        InputError: the archive, or a file in it, is not what IWSLT published.
    """
    languages = (options.source_lang, options.target_lang)
    corpus = Corpus(options.archive, options.edition, languages)
    splits: dict[str, Pairs] = {}
    report: Report = {}
    held_out: set[str] = set()
    for split in ("valid", "test"):
        splits[split], report[split] = [], {}
        for name in getattr(options, split):
            pairs, talks = corpus.held_out(name)
            splits[split] += pairs
            held_out |= talks
            report[split][name] = {"lines_in": len(pairs), "lines_out": len(pairs), "talks": len(talks)}
            print(f"{split}: {name}, {len(pairs):,} segments of {len(talks):,} talks in and out, aligned by document and segment")
    splits["train"], report["train"] = corpus.train(held_out)
    describe_train(report["train"], languages)
    if not splits["train"]:
        remedy = "name other sets by VALID and TEST, or fetch it again"
        raise InputError(f"{options.archive}: no training pair is left (see above); {remedy}")
    options.out.mkdir(parents=True, exist_ok=True)
    for split, pairs in splits.items():
        for language, lines in zip(languages, zip(*pairs, strict=True), strict=True):
            write_lines(options.out / f"{split}.{language}", lines)
    write_report(options.out / "report.json", {"edition": options.edition, "pair": corpus.pair, **report})


def describe_train(report: Report, languages: tuple[str, str]) -> None:
    """Says how many lines of the training text went in, out, and why the others didn't."""
    for language in languages:
        side = report[language]
        tags = ", ".join(f"{tag} {count:,}" for tag, count in side["tags"].items())
        print(f"train: {language}, {side['lines_in']:,} lines in, {side['sentences']:,} sentences, dropped because tags: {tags}")
    dropped = report["dropped"]["held_out"]
    print(f"train: {report['talks']:,} talks, {report['lines_out']:,} pairs out, dropped because of a held-out talk {dropped:,}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="the archive, or a folder that it or one inside it was unpacked to")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--edition", required=True, help="year, two digits")
    parser.add_argument("--source-lang", required=True, help="what is translated from, such as en")
    parser.add_argument("--target-lang", required=True, help="and into, such as de")
    for split in ("valid", "test"):
        parser.add_argument(f"--{split}", required=True, nargs="+", metavar="SET", help="such as tst2013 or TEDX.tst2013")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: extract(parse_options()))
