"""Paired bootstrap of BLEU from what a result keeps of each sentence (Koehn 2004), by sacreBLEU's own resampling.

A result keeps sacreBLEU's sufficient statistics of every sentence and score, so that intervals need neither text nor references:
int `[scores, 10, sentences]`, the ten being hypothesis length, reference length, matching and all 1- to 4-grams.
"""

import base64
import binascii
import lzma
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics import BLEU
from sacrebleu.significance import _bootstrap_resample, _compute_p_value, estimate_ci

SAMPLES = 1000
STATISTICS = 10
NUMBER = np.dtype("<u2")


class Difference(NamedTuple):
    """BLEU of a row less that of the baseline: half the 95 % interval and sacreBLEU's p-value beside it.

    That one is near a one-sided test's: at the edge of the 95 % interval, where two-sided ones have 0.05, it is about 0.025.
    """

    value: float
    interval: float
    p_value: float


def pack(statistics: Sequence[Sequence[Sequence[int]]]) -> str:
    """Statistics `[scores, sentences, 10]` as text for JSON. Scores after other steps differ little, which compresses well.

    Raises:
        ValueError: a number that two bytes don't hold.
    """
    numbers = np.asarray(statistics).transpose(0, 2, 1)
    if numbers.min() < 0 or numbers.max() > np.iinfo(NUMBER).max:
        raise ValueError(f"a sentence's statistics go from {numbers.min()} to {numbers.max()}; two bytes don't hold that")
    return base64.b64encode(lzma.compress(np.ascontiguousarray(numbers, NUMBER).tobytes())).decode("ascii")


def unpack(text: str, sentences: int) -> np.ndarray:
    """What `pack` was given, int64 `[scores, sentences, 10]`.

    Raises:
        ValueError: not such a text, or one of another number of sentences.
    """
    try:
        numbers = np.frombuffer(lzma.decompress(base64.b64decode(text, validate=True)), NUMBER)
        return numbers.reshape(-1, STATISTICS, sentences).transpose(0, 2, 1).astype(np.int64)
    except (binascii.Error, lzma.LZMAError, ValueError) as error:
        raise ValueError(f"sentence statistics can't be read for {sentences} sentences: {error}") from error


def corpus_bleu(statistics: np.ndarray) -> float:
    """BLEU of a whole set from its sentences' statistics `[sentences, 10]`."""
    return BLEU()._compute_score_from_stats(statistics.sum(0).tolist()).score


def resample(statistics: np.ndarray) -> np.ndarray:
    """BLEU of `SAMPLES` resamples of the sentences, float64 `[SAMPLES]`; the same resamples for every row: paired."""
    _, scores = _bootstrap_resample(statistics.tolist(), BLEU(), SAMPLES)
    return np.array([score.score for score in scores])


def half_interval(scores: np.ndarray) -> float:
    """Half the width of the 95 % interval of resampled scores."""
    return float(estimate_ci(scores)[1])


def difference(value: float, row: np.ndarray, baseline: np.ndarray) -> Difference:
    """Compare two rows' resampled BLEU `[SAMPLES]`; `value` is the difference on the whole set."""
    differences = row - baseline
    sizes = np.abs(differences)
    # sacreBLEU's formula finds the least p-value for equal translations.
    p_value = _compute_p_value(sizes - sizes.mean(), abs(value)) if sizes.any() else 1.0
    return Difference(value, half_interval(differences), float(p_value))


def signature() -> dict[str, Any]:
    """Resamples and seed, as sacreBLEU names them."""
    return {"bs": SAMPLES, "seed": os.environ.get("SACREBLEU_SEED", "12345")}
