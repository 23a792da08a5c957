"""`nat_refinement_loss`: the training objective of Lee et al., EMNLP 2018, section 3."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

# On a GPU: 1 GB in float32, three times that with log-softmax and gradients. No small vocabulary gets there, where blocks are no
# quicker than whole logits; on a CPU they always are.
MOST_LOGITS = 1 << 28


@dataclass
class NatRefinementLossConfig(FairseqDataclass):
    length_loss_factor: float = field(default=1.0, metadata={"help": "weight of the length loss"})
    most_logits: Optional[int] = field(  # noqa: UP045 (fairseq reads this form alone)
        default=None,
        metadata={
            "help": "with more logits than this in all steps of a batch, take the loss by blocks of them "
            "(default: 0 on a CPU, 2^28 on a GPU)"
        },
    )
    sentence_avg: bool = "${optimization.sentence_avg}"


@register_criterion("nat_refinement_loss", dataclass=NatRefinementLossConfig)
class NatRefinementLoss(FairseqCriterion):
    """Σ_l mean over tokens of −log p(Y*|Yˡ⁻¹, X)  +  factor × mean over sentences of the length loss.

    The sum runs over the initial prediction and all refinement steps. The sample size is the number of target tokens, so that
    means over tokens hold over all workers and accumulated batches; the mean over the sentences of each batch counts there by
    the batch's tokens. Losses are natural logarithms, computed in float32 at least; where a batch has too many logits to hold,
    by blocks of them, with the same values and gradients.

    Raises:
        ValueError: an option out of range, or --sentence-avg.
    """

    def __init__(
        self, task: Any, length_loss_factor: float, most_logits: int | None = None, sentence_avg: bool = False
    ) -> None:
        super().__init__(task)
        if sentence_avg:
            raise ValueError("--sentence-avg: the means of nat_refinement_loss are over tokens; leave it out")
        if not length_loss_factor >= 0:
            raise ValueError(f"--length-loss-factor must not be negative, got {length_loss_factor}")
        if most_logits is not None and most_logits < 0:
            raise ValueError(f"--most-logits must not be negative, got {most_logits}")
        self.length_loss_factor, self.most_logits = length_loss_factor, most_logits

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss summed over tokens, the number of tokens, and what to log.

        Raises:
            ValueError: a batch of another task, which says nothing of refinement steps.
        """
        if "step_inputs" not in sample:
            raise ValueError("nat_refinement_loss needs --task translation_nat, which draws the inputs of the refinement steps")
        most_logits = self.most_logits
        if most_logits is None:
            most_logits = 0 if sample["target"].device.type == "cpu" else MOST_LOGITS
        output = model(
            **sample["net_input"],
            tgt_tokens=sample["target"],
            step_inputs=sample["step_inputs"],
            most_logits=most_logits,
        )
        targets, tokens, sentences = output["targets"], sample["ntokens"], sample["target"].shape[0]
        step_losses = output.get("step_losses")
        if step_losses is None:
            exact = [logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in output["steps"]]
            step_losses = [F.cross_entropy(logits, targets, reduction="sum") for logits in exact]
        length_logits, length_targets = output["length_logits"].float(), output["length_targets"]
        length_loss = F.cross_entropy(length_logits, length_targets, reduction="sum")
        loss = torch.stack(step_losses).sum() + self.length_loss_factor * length_loss * (tokens / sentences)
        logging_output = {
            "loss": loss.detach(),
            "length_loss": length_loss.detach(),
            "length_correct": (length_logits.argmax(-1) == length_targets).sum(),
            "ntokens": tokens,
            "source_tokens": sample["net_input"]["src_lengths"].sum(),
            "nsentences": sentences,
            "sample_size": tokens,
        }
        for i, (words, step_loss) in enumerate(zip(output["predictions"], step_losses, strict=True), start=1):
            logging_output[f"step{i}_loss"] = step_loss.detach()
            logging_output[f"step{i}_correct"] = (words == targets).sum()
        for name, momentum in output["momentum"].items():
            logging_output[f"momentum_{name}"] = momentum * logging_output[tokens_of(name)]
        return loss, tokens, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log `loss` (per token, all steps and the length), `step<i>_loss` and `_accuracy`, `length_loss` and `_accuracy`,
        and `momentum_<part>_layer<i>`, the mean adaptive β̃."""
        totals: dict[str, float] = {}
        for output in logging_outputs:
            for key, value in output.items():
                totals[key] = totals.get(key, 0) + value
        if not totals:
            return
        tokens, sentences = totals["ntokens"], totals["nsentences"]
        metrics.log_scalar("loss", totals["loss"] / totals["sample_size"], totals["sample_size"], round=3)
        for key, total in totals.items():
            if key == "length_loss":
                metrics.log_scalar(key, total / sentences, sentences, round=3)
            elif key == "length_correct":
                metrics.log_scalar("length_accuracy", 100 * total / sentences, sentences, round=1)
            elif key.startswith("step") and key.endswith("_loss"):
                metrics.log_scalar(key, total / tokens, tokens, round=3)
            elif key.startswith("step") and key.endswith("_correct"):
                metrics.log_scalar(key.replace("correct", "accuracy"), 100 * total / tokens, tokens, round=1)
            elif key.startswith("momentum_"):
                averaged = totals[tokens_of(key.removeprefix("momentum_"))]
                metrics.log_scalar(key, total / averaged, averaged, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All that is logged is a sum."""
        return True


def tokens_of(momentum: str) -> str:
    """What counts the tokens that a mean β̃ is over: the encoder's are the source's."""
    return "source_tokens" if momentum.startswith("encoder") else "ntokens"
