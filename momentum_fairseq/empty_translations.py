"""BLEU in validation where translations are empty, as the first ones of an autoregressive model may be."""

from typing import Any

import numpy as np
from fairseq.logging import metrics
from fairseq.tasks.translation import EVAL_BLEU_ORDER, TranslationTask
from sacrebleu.metrics import BLEU


def score_empty_translations() -> None:
    """Let fairseq's translation tasks count batches of which every translation is empty.

    fairseq 0.12.3 leaves them out, with their references: BLEU is too high then, and where all batches are such there is none,
    on which a training that keeps the checkpoint of the best BLEU ends with a KeyError.
    """
    reduce_metrics = TranslationTask.reduce_metrics
    if reduce_metrics.__module__ == __name__:  # the module is imported anew: twice around, it would count references twice
        return

    def reduce_with_bleu(self: TranslationTask, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        scored = [log for log in logging_outputs if "_bleu_ref_len" in log]
        if scored and not any(log["_bleu_totals_0"] for log in scored):
            metrics.log_scalar("_bleu_counts", np.zeros(EVAL_BLEU_ORDER))
            metrics.log_scalar("_bleu_totals", np.zeros(EVAL_BLEU_ORDER))
            metrics.log_scalar("_bleu_sys_len", 0)
            metrics.log_scalar("_bleu_ref_len", sum(log["_bleu_ref_len"] for log in scored))
            metrics.log_derived("bleu", _bleu)
        reduce_metrics(self, logging_outputs, criterion)

    TranslationTask.reduce_metrics = reduce_with_bleu


def _bleu(meters: Any) -> float:
    """As fairseq computes it, of all batches so far."""
    counts, totals, *lengths = (meters[f"_bleu_{name}"].sum for name in ("counts", "totals", "sys_len", "ref_len"))
    return round(BLEU.compute_bleu(counts, totals, *map(int, lengths), smooth_method="exp").score, 2)
