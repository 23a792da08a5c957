"""`classification_loss`: cross-entropy of a class, with the accuracy counted over examples."""

from typing import Any

import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor


@register_criterion("classification_loss", dataclass=FairseqDataclass)
class ClassificationLoss(FairseqCriterion):
    """Mean over examples of −log p(class), natural logarithm, computed in float32.

    The sample size is the number of examples, so that the means hold over all workers and accumulated batches.
    """

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss summed over examples, the number of examples, and what to log.

        Raises:
            ValueError: a model that predicts no classes.
        """
        output, target = model(**sample["net_input"]), sample["target"]
        if not isinstance(output, dict) or "logits" not in output:
            raise ValueError("classification_loss needs a model that predicts classes: --task lra, --arch lra_classifier_…")
        logits = output["logits"].float()
        loss = F.cross_entropy(logits, target, reduction="sum")
        examples = len(target)
        logging_output = {
            "loss": loss.detach(),
            "correct": (logits.argmax(-1) == target).sum(),
            "examples": examples,
            "ntokens": sample["ntokens"],
            "nsentences": examples,
            "sample_size": examples,
        }
        return loss, examples, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log `loss`, the sums `correct` and `examples`, and `accuracy`, their quotient in per cent."""
        totals = {key: sum(float(output.get(key, 0)) for output in logging_outputs) for key in ("loss", "correct", "examples")}
        if not totals["examples"]:
            return
        metrics.log_scalar("loss", totals["loss"] / totals["examples"], totals["examples"], round=4)
        for key in ("correct", "examples"):
            metrics.log_scalar_sum(key, totals[key], round=0)
        metrics.log_derived("accuracy", lambda meters: round(100 * meters["correct"].sum / meters["examples"].sum, 3))

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All that is logged is a sum."""
        return True
