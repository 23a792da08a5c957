"""Writes the training text of a distilled corpus: the sources as they are, a teacher's hypotheses in place of the targets.

A pair whose hypothesis is empty is left out and counted: no model can learn to predict nothing. Validation and test text is
copied. What went in, what came out and how near the teacher is to the references stands in `report.json`.
"""

import argparse
import shutil
from collections import Counter
from pathlib import Path

from common.parallel_text import SPLITS, InputError, Report, read_lines, read_report, run, write_lines, write_report
from common.shards import Shard, all_shards
from sacrebleu.metrics import BLEU


def read_shards(shards: list[Shard]) -> tuple[list[str], Report]:
    """All hypotheses in the order of the training set, and what their stamps say of the teacher.

    Raises:
        InputError: a shard doesn't stand, or they are of different teachers.
    """
    hypotheses, teachers = [], []
    for shard in shards:
        lines, stamp = shard.read()
        hypotheses += lines
        teachers.append(stamp["teacher"])
        if teachers[-1] != teachers[0]:
            raise InputError(f"{shard.text}: decoded by {teachers[-1]}, but {shards[0].text.name} by {teachers[0]}")
    return hypotheses, teachers[0]


def words(lines: list[str]) -> list[str]:
    """Lines of sub-words as lines of words."""
    return [(line + " ").replace("@@ ", "").strip() for line in lines]


def distil(options: argparse.Namespace) -> None:
    """Writes `bpe/<split>.<language>`, `report.json` and `settings.txt`.

    Raises:
        InputError: the text and the shards don't belong together, or every hypothesis is empty.
    """
    source, target = (options.data / "bpe" / f"train.{language}" for language in (options.source_lang, options.target_lang))
    sources, references = read_lines(source), read_lines(target)
    hypotheses, teacher = read_shards(all_shards(options.shards_folder, options.shards, len(sources)))
    kept = [(text, hypothesis) for text, hypothesis in zip(sources, hypotheses, strict=True) if hypothesis]
    if not kept:
        raise InputError(f"{options.shards_folder}: all {len(hypotheses):,} hypotheses are empty; train the teacher for longer")
    empty = len(hypotheses) - len(kept)

    folder = options.out / "bpe"
    folder.mkdir(parents=True)
    for path, lines in zip((source, target), zip(*kept, strict=True), strict=True):
        write_lines(folder / path.name, lines)
    for path in (options.data / "bpe").iterdir():
        if path.stem in SPLITS[1:]:
            shutil.copyfile(path, folder / path.name)

    report = read_report(options.data / "report.json")
    train, subwords = report["train"], Counter(unit for _, line in kept for unit in line.split(" "))
    train["lines_out"] = len(kept)
    train["dropped"]["empty_hypothesis"] = empty
    unknown = subwords["<unk>"]
    counts = {"subwords": subwords.total(), "unk": unknown, "unk_rate": unknown / subwords.total(), "unk_examples": []}
    train[options.target_lang] = counts
    bleu = BLEU(tokenize="none", force=True)
    score = round(bleu.corpus_score(words(hypotheses), [words(references)]).score, 2)
    train["teacher"] = {**teacher, "bleu_against_references": score, "signature": str(bleu.get_signature())}
    write_report(options.out / "report.json", report)

    settings = (options.data / "settings.txt").read_text(encoding="utf-8")
    how = [f"{name.upper()}={value}" for name, value in teacher.items() if name in ("beam", "lenpen")]
    made_by = [f"TEACHER={teacher['arch']} {teacher['updates']} updates", f"sha256 teacher={options.teacher_checksum}"]
    write_lines(options.out / "settings.txt", [*settings.splitlines(), "DISTILLED=1", *made_by, *how])
    print(f"distill: {len(hypotheses):,} sentences in, {len(kept):,} out, dropped because empty hypothesis {empty:,}")
    print(f"distill: BLEU of the teacher's translation of the training set {score:.2f} ({train['teacher']['signature']})")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder made by prepare_parallel.sh")
    parser.add_argument("shards_folder", type=Path, help="folder of decode_shards.py")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--source-lang", required=True, help="what is translated from, such as en")
    parser.add_argument("--target-lang", required=True, help="and into, such as de")
    parser.add_argument("--shards", type=int, required=True, help="how many they are")
    parser.add_argument("--teacher-checksum", required=True, help="sha256 of the checkpoint, for settings.txt")
    return parser.parse_args()


if __name__ == "__main__":
    run(lambda: distil(parse_options()))
