"""A training forward of the refinement model, and what it says of a sentence."""

from torch import Tensor

from momentum_fairseq.modules import ATTENTION_KINDS
from tests.models.sentences import PAD
from tests.pairs import pairs

ALL = pairs(ATTENTION_KINDS)


def forward(model, source: Tensor, target: Tensor, denoising: bool = False) -> dict:
    step_inputs = [None, target.flip(0) if denoising and len(target) == 1 else None, None]
    return model(source, source.ne(PAD).sum(1), target, step_inputs)


def rows_of(output: dict, target: Tensor, sentence: int) -> list[Tensor]:
    """The logits of one sentence in every step, then its length logits."""
    real = target.ne(PAD)
    start, end = int(real[:sentence].sum()), int(real[: sentence + 1].sum())
    return [logits[start:end] for logits in output["steps"]] + [output["length_logits"][sentence]]
