"""Batches of sentences in the middle of their refinement: of like length, so that little is padding, and joined when small."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.models.momentum_nat import MomentumNatModel, RefinementState
from momentum_fairseq.models.nat_encoder import EncoderOutput

# Words that a CPU refines, times the model's width: its own cache holds what a layer makes of them. 1,024 words of 128 numbers,
# which are a third quicker than 256 of them, 471 of 278.
NUMBERS_AT_ONCE = 1 << 17
FEW_WORDS = 64  # of a batch whose other sentences are finished: with fewer, operations cost more than their products


class Batch(NamedTuple):
    """Sentences that are refined together.

    rows: which they are of all, int64 `[B]`; state: of their words; steps: passes that each has had, int64 `[B]`;
    same_for: passes since its output changed, int64 `[B]`.
    """

    rows: Tensor
    state: RefinementState
    steps: Tensor
    same_for: Tensor

    def select(self, sentences: Tensor) -> "Batch":
        """Some of them: int64 `[B']`."""
        return Batch(
            self.rows[sentences], self.state.select(sentences), self.steps[sentences], self.same_for[sentences]
        )


def groups_of_like_length(lengths: Tensor, width: int) -> list[Tensor]:
    """Which sentences of `lengths`, int64 `[B]`, a model of so many features refines together: int64 each.

    On a CPU a group has at most `NUMBERS_AT_ONCE` / width words, padding counted.
    """
    if lengths.device.type != "cpu":
        return [torch.arange(len(lengths), device=lengths.device)]
    ordered, rows = lengths.sort(stable=True)
    ends, start = [], 0
    for end, length in enumerate(ordered.tolist()):
        if end > start and (end + 1 - start) * length * width > NUMBERS_AT_ONCE:
            ends.append(end)
            start = end
    return list(rows.tensor_split(ends)) if ends else [torch.arange(len(lengths))]


def begin(model: MomentumNatModel, source: EncoderOutput, lengths: Tensor, rows: Tensor) -> Batch:
    """The initial translation of some sentences of the source, to their `lengths`, int64 `[B]` of all."""
    if len(rows) < len(lengths):
        source, lengths = source.select(rows), lengths[rows]
    return Batch(rows, model.translate(source, lengths), torch.ones_like(rows), torch.zeros_like(rows))


def join(model: MomentumNatModel, source: EncoderOutput, lengths: Tensor, batches: list[Batch]) -> Iterator[Batch]:
    """The same sentences in as few batches of like length as hold them."""
    width = max(batch.state.tokens.shape[1] for batch in batches)
    # Padding is masked: any token and any number will do there.
    tokens = torch.cat([F.pad(batch.state.tokens, (0, width - batch.state.tokens.shape[1])) for batch in batches])
    hidden = torch.cat([F.pad(batch.state.hidden, (0, 0, 0, width - batch.state.hidden.shape[1])) for batch in batches])
    rows, steps, same_for = (torch.cat([getattr(batch, x) for batch in batches]) for x in ("rows", "steps", "same_for"))
    for group in groups_of_like_length(lengths[rows], hidden.shape[-1]):
        own = lengths[rows[group]]
        words = int(own.max())
        state = model.resume(source.select(rows[group]), own, tokens[group, :words], hidden[group, :words])
        yield Batch(rows[group], state, steps[group], same_for[group])
