"""Sentences for the tests of the refinement model: words, padding on either side, and a training forward of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.modules import ATTENTION_KINDS
from tests.pairs import pairs

PAD, EOS = 1, 2
ALL = pairs(ATTENTION_KINDS)


def pad(sentences: list[Tensor], width: int, left: bool) -> Tensor:
    """int64 `[B, width]`."""
    rows = [F.pad(s, (width - len(s), 0) if left else (0, width - len(s)), value=PAD) for s in sentences]
    return torch.stack(rows)


def words(*lengths: int, seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 44, (length,), generator=generator) for length in lengths]


def sources(*lengths: int) -> list[Tensor]:
    """Sentences with EOS; `lengths` count the words."""
    return [F.pad(sentence, (0, 1), value=EOS) for sentence in words(*lengths)]


def forward(model, source: Tensor, target: Tensor, denoising: bool = False) -> dict:
    step_inputs = [None, target.flip(0) if denoising and len(target) == 1 else None, None]
    return model(source, source.ne(PAD).sum(1), target, step_inputs)


def rows_of(output: dict, target: Tensor, sentence: int) -> list[Tensor]:
    """The logits of one sentence in every step, then its length logits."""
    real = target.ne(PAD)
    start, end = int(real[:sentence].sum()), int(real[: sentence + 1].sum())
    return [logits[start:end] for logits in output["steps"]] + [output["length_logits"][sentence]]
