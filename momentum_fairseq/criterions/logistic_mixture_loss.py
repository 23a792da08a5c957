"""`logistic_mixture_loss`: −log p of pixels under mixtures of discretised logistics, reported in bits per dimension."""

import math
from dataclasses import dataclass
from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from momentum_fairseq.ops.logistic_mixture import logistic_mixture_log_prob


@dataclass
class LogisticMixtureLossConfig(FairseqDataclass):
    sentence_avg: bool = "${optimization.sentence_avg}"


@register_criterion("logistic_mixture_loss", dataclass=LogisticMixtureLossConfig)
class LogisticMixtureLoss(FairseqCriterion):
    """Σ over pixels of −log p(v | the pixels before it); each of the three colours counts as a pixel, and the first one too.

    The sample size is the number of pixels, so that the means hold over all workers and accumulated batches.

    Raises:
        ValueError: --sentence-avg, or a task whose targets are no pixels.
    """

    def __init__(self, task: Any, sentence_avg: bool = False) -> None:
        super().__init__(task)
        if sentence_avg:
            raise ValueError("--sentence-avg: the means of logistic_mixture_loss are over pixels; leave it out")
        if not hasattr(task, "pixels"):
            raise ValueError(f"logistic_mixture_loss is of pixels: it needs --task image_generation, not {type(task).__name__}")
        self.first_value = task.target_dictionary.nspecial

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss in nats summed over pixels, the number of pixels, and what to log.

        Raises:
            ValueError: a model whose output is no mixture.
        """
        parameters, _ = model(**sample["net_input"])
        loss = -logistic_mixture_log_prob(parameters, sample["target"] - self.first_value).sum()
        pixels = sample["ntokens"]
        logging_output = {
            "loss": loss.detach(),
            "ntokens": pixels,
            "nsentences": len(sample["target"]),
            "sample_size": pixels,
        }
        return loss, pixels, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log `loss` in bits per dimension, as fairseq's own criterions log theirs in base 2."""
        pixels = sum(output.get("ntokens", 0) for output in logging_outputs)
        if pixels:
            nats = sum(output.get("loss", 0) for output in logging_outputs)
            metrics.log_scalar("loss", nats / pixels / math.log(2), pixels, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All that is logged is a sum."""
        return True
