"""Tokens to text to BLEU and chrF, against the references that prepare_parallel.sh kept, and what the prepared data is."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from sacrebleu.metrics import BLEU, CHRF
from sacremoses import MosesDetokenizer

SPLIT_NAMES = {"valid": "VALID", "test": "TEST"}


def prepared_settings(folder: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a prepared folder's settings.txt.

    Raises:
        SystemExit: no such file, or one without the languages.
    """
    file = folder / "settings.txt"
    if not file.is_file():
        raise SystemExit(f"error: {file}: no such file; make the folder with scripts/prepare_parallel.sh")
    settings = dict(line.split("=", 1) for line in file.read_text(encoding="utf-8").splitlines() if "=" in line)
    missing = [key for key in ("SOURCE_LANG", "TARGET_LANG") if key not in settings]
    if missing:
        raise SystemExit(f"error: {file}: no line {missing[0]}=…; make the folder anew with scripts/prepare_parallel.sh")
    return settings


class Scorer:
    """Scores translations of a prepared folder's sets.

    BLEU is of detokenised text against the raw references; where the data was prepared lower-cased or already tokenised, text is
    compared as it was prepared.
    """

    def __init__(self, folder: Path, dictionary: Any) -> None:
        settings = prepared_settings(folder)
        self.folder, self.dictionary, self.language = folder, dictionary, settings["TARGET_LANG"]
        self.lowercase, self.tokenized = settings.get("LOWERCASE") == "1", settings.get("TOKENIZED") == "1"
        self.detokenizer = MosesDetokenizer(lang=self.language)

    def references(self, split: str) -> list[str]:
        """The raw references of a split, one a sentence.

        Raises:
            SystemExit: no such file.
        """
        file = self.folder / f"ref.{split}.{self.language}"
        if not file.is_file():
            raise SystemExit(f"error: {file}: no such file, so there is nothing to score {split} against")
        return file.read_text(encoding="utf-8").rstrip("\n").split("\n")

    def text(self, tokens: torch.Tensor) -> str:
        words = self.dictionary.string(tokens.int().cpu(), "@@ ")
        return words if self.tokenized else self.detokenizer.detokenize(words.split())

    def score(self, hypotheses: list[str], references: list[str]) -> tuple[dict[str, Any], list[list[int]]]:
        """BLEU and chrF with their signatures; and sacreBLEU's statistics of each sentence `[sentences, 10]`.

        Raises:
            SystemExit: another number of hypotheses than of references.
        """
        if len(hypotheses) != len(references):
            raise SystemExit(f"error: {len(references)} sentences in, {len(hypotheses)} out; not scored")
        bleu, chrf = BLEU(lowercase=self.lowercase), CHRF(lowercase=self.lowercase)
        statistics = bleu._extract_corpus_statistics(hypotheses, [references])
        scores = {
            "bleu": round(bleu._aggregate_and_compute(statistics).score, 2),
            "bleu_signature": str(bleu.get_signature()),
            "chrf": round(chrf.corpus_score(hypotheses, [references]).score, 2),
            "chrf_signature": str(chrf.get_signature()),
        }
        return scores, statistics


def training_folder(data: str) -> Path | None:
    """The prepared folder of the data-bin that a checkpoint's training was given; None, said aloud, where it isn't there.

    Args:
        data: the task's `data`; from the folder that the training was started in, unless absolute.
    """
    folder = Path(data).parent
    try:
        prepared_settings(folder)
    except SystemExit:
        print(f"warning: {data}: the model was trained on it, and no prepared folder is there: training set unknown", flush=True)
        return None
    return folder


def describe_data(folder: Path, trained_on: Path | None, references: dict[str, list[str]]) -> dict[str, Any]:
    """What a score depends on besides the model: the corpus that it was trained on, distilled or not, and the test sets by
    checksum.

    Args:
        folder: the prepared folder that is scored. trained_on: the one that the model was trained on; None = not known.
        references: split → its references.
    """
    settings, training = prepared_settings(folder), trained_on and prepared_settings(trained_on)
    return {
        "corpus": training and training.get("CORPUS"),
        "substitute": training and "substitute" in training.get("CORPUS", ""),
        "distilled": training and training.get("DISTILLED") == "1",
        "languages": f"{settings['SOURCE_LANG']}-{settings['TARGET_LANG']}",
        "sets": {
            split: {
                "name": settings.get(SPLIT_NAMES[split]),
                "sentences": len(lines),
                "sha256": hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest(),
            }
            for split, lines in references.items()
        },
    }


def training_set(folder: Path) -> dict[str, str]:
    """Language → sha256 of a prepared folder's training set in sub-words, which tells one teacher's translation of it from
    another's; empty where that text isn't there any more."""
    settings = prepared_settings(folder)
    files = {language: folder / "bpe" / f"train.{language}" for language in (settings["SOURCE_LANG"], settings["TARGET_LANG"])}
    return {language: hashlib.sha256(file.read_bytes()).hexdigest() for language, file in files.items() if file.is_file()}
