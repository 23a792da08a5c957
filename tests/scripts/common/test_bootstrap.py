"""Intervals and p-values from kept statistics are those that sacreBLEU finds from the text."""

import random

import numpy as np
import pytest
from common import bootstrap
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "run", "far", "away", "from", "home"]


def corpus(sentences: int, wrong: float, seed: int) -> list[str]:
    """Sentences that differ from those with `wrong` 0 in so many of the words."""
    truth, noise = random.Random(0), random.Random(seed)
    lines = [[truth.choice(WORDS) for _ in range(truth.randint(4, 20))] for _ in range(sentences)]
    return [" ".join(noise.choice(WORDS) if noise.random() < wrong else word for word in line) for line in lines]


@pytest.fixture(scope="module")
def systems() -> tuple[list[str], list[str], list[str]]:
    """References and two systems, the second a little better."""
    return corpus(60, 0, 0), corpus(60, 0.3, 1), corpus(60, 0.27, 2)


@pytest.fixture(scope="module")
def kept(systems) -> np.ndarray:
    references, *hypotheses = systems
    statistics = [BLEU()._extract_corpus_statistics(lines, [references]) for lines in hypotheses]
    return bootstrap.unpack(bootstrap.pack(statistics), 60)


def test_what_is_packed_comes_out_again(systems, kept):
    references, *hypotheses = systems
    for statistics, lines in zip(kept, hypotheses, strict=True):
        assert statistics.tolist() == BLEU()._extract_corpus_statistics(lines, [references])
        assert bootstrap.corpus_bleu(statistics) == BLEU().corpus_score(lines, [references]).score


def test_intervals_and_p_values_are_those_of_sacrebleu(systems, kept):
    references, *hypotheses = systems
    named = [("baseline", hypotheses[0]), ("other", hypotheses[1])]
    _, found = PairedTest(named, {"BLEU": BLEU()}, [references], "bs", bootstrap.SAMPLES)()
    baseline, other = found["BLEU"]
    first, second = (bootstrap.resample(statistics) for statistics in kept)
    assert bootstrap.half_interval(first) == pytest.approx(baseline.ci)
    assert bootstrap.half_interval(second) == pytest.approx(other.ci)
    compared = bootstrap.difference(other.score - baseline.score, second, first)
    assert compared.p_value == pytest.approx(other.p_value)
    assert 0 < other.p_value < 0.5


def test_a_p_value_is_near_that_of_a_one_sided_test():
    differences = 2 + np.random.default_rng(1).normal(size=100_000)
    compared = bootstrap.difference(1.96, differences - 0.04, np.zeros_like(differences))
    assert compared.interval == pytest.approx(1.96, abs=0.03)
    assert compared.p_value == pytest.approx(0.025, abs=0.004)


def test_a_row_that_is_worse_by_as_much_has_the_same_interval_and_p_value(kept):
    first, second = (bootstrap.resample(statistics) for statistics in kept)
    better, worse = bootstrap.difference(1.0, second, first), bootstrap.difference(-1.0, first, second)
    assert worse[1:] == pytest.approx(better[1:])


def test_pairing_narrows_the_interval_of_a_difference(kept):
    first, second = (bootstrap.resample(statistics) for statistics in kept)
    unpaired = np.hypot(bootstrap.half_interval(first), bootstrap.half_interval(second))
    assert bootstrap.difference(1.0, second, first).interval < unpaired


def test_a_row_differs_from_itself_by_nothing(kept):
    resampled = bootstrap.resample(kept[0])
    compared = bootstrap.difference(0.0, resampled, resampled)
    assert compared == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("text", ["no base64!", "AAAA", ""])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="can't be read for 60 sentences"):
        bootstrap.unpack(text, 60)


def test_another_number_of_sentences_is_refused(kept):
    text = bootstrap.pack([kept[0].tolist()])
    with pytest.raises(ValueError, match="can't be read for 59 sentences"):
        bootstrap.unpack(text, 59)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="70000"):
        bootstrap.pack([[[70000, 5, 0, 0, 0, 0, 0, 0, 0, 0]]])
