"""BLEU in validation, of batches whose translations are empty and of others."""

import warnings
from argparse import Namespace
from typing import Any

import pytest
from fairseq.criterions import FairseqCriterion
from fairseq.logging import metrics
from fairseq.tasks.translation import TranslationTask
from sacrebleu.metrics import BLEU

from momentum_fairseq.empty_translations import score_empty_translations  # which importing the package has called

REFERENCES = [["a b c d e f", "g h i j k l"], ["m n o p q r s"]]
RIGHT, EMPTY = REFERENCES, [["", ""], [""]]


class NoLoss(FairseqCriterion):
    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        pass


def logged(hypotheses: list[str], references: list[str]) -> dict[str, Any]:
    """What the validation of a batch gives to be summed up."""
    score = BLEU().corpus_score(hypotheses, [references])
    entries = {f"_bleu_{name}_{i}": getattr(score, name)[i] for name in ("counts", "totals") for i in range(4)}
    return {"_bleu_sys_len": score.sys_len, "_bleu_ref_len": score.ref_len, **entries}


def bleu_after(*batches: list[str]) -> float | None:
    """The BLEU that a validation ends with, over these batches of hypotheses."""
    task = object.__new__(TranslationTask)
    task.cfg = Namespace(eval_bleu=True)
    with metrics.aggregate(new_root=True) as found, warnings.catch_warnings(action="ignore"):
        for hypotheses, references in zip(batches, REFERENCES, strict=True):
            task.reduce_metrics([logged(hypotheses, references)], NoLoss(task))
    return found.get_smoothed_values().get("bleu")


@pytest.mark.parametrize("batches", [(RIGHT[0], EMPTY[1]), (EMPTY[0], RIGHT[1]), RIGHT])
def test_the_bleu_of_a_set_is_that_of_all_its_batches(batches):
    lines, references = ([line for part in parts for line in part] for parts in (batches, REFERENCES))
    expected = BLEU().corpus_score(lines, [references]).score
    assert bleu_after(*batches) == pytest.approx(expected, abs=0.006) and expected > 10


def test_where_all_translations_are_empty_bleu_is_zero_and_not_missing():
    assert bleu_after(*EMPTY) == 0


def test_a_second_call_as_by_a_reload_counts_nothing_twice(monkeypatch):
    monkeypatch.setattr(TranslationTask, "reduce_metrics", TranslationTask.reduce_metrics)  # to be put back
    expected = bleu_after(EMPTY[0], RIGHT[1])
    score_empty_translations()
    assert bleu_after(EMPTY[0], RIGHT[1]) == expected


def test_in_training_there_is_no_bleu():
    task = object.__new__(TranslationTask)
    task.cfg = Namespace(eval_bleu=True)
    with metrics.aggregate(new_root=True) as found, warnings.catch_warnings(action="ignore"):
        task.reduce_metrics([{"loss": 1.0}], NoLoss(task))
    assert "bleu" not in found.get_smoothed_values()
