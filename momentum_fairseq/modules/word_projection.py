"""From hidden states to words while decoding; the logits of a batch are never in memory together."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from momentum_fairseq.modules.packed_linear import JointLinear
from momentum_fairseq.ops.row_argmax import row_argmax

BLOCK = 1 << 22  # logits in memory at once: 16 MB in float32; with fewer rows a plain product is slower
PACKED_BLOCK = 1 << 19  # with packed weights: what a core's own cache holds


class WordProjection(JointLinear):
    """The best word of each of R positions, and scores of words. It has no parameters of its own.

    Args:
        projection: `[..., C]` → `[..., V]`; whoever builds this owns it.
        first_word: the ids below are symbols that are never produced.
    """

    def __init__(self, projection: nn.Linear, first_word: int) -> None:
        super().__init__(projection)
        self.first_word = first_word

    def best(self, hidden: Tensor) -> Tensor:
        """The most probable word of each position, `[R,C]` → int64 `[R]`; of equal logits the first word wins."""
        words = [row_argmax(logits[:, self.first_word :]) for _, logits in self._blocks(hidden)]
        return torch.cat(words) + self.first_word

    def scores(self, hidden: Tensor, words: Tensor) -> Tensor:
        """log p of one word a position: `[R,C]`, int64 `[R]` → float32 `[R]`."""
        scores = []
        for start, logits in self._blocks(hidden):
            logits = logits.float()
            chosen = logits.gather(1, words[start : start + len(logits)].unsqueeze(1)).squeeze(1)
            scores.append(chosen - logits.logsumexp(-1))
        return torch.cat(scores)

    def _blocks(self, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first row of each block, and the block's logits `[r,V]`."""
        vocabulary = self.linears()[0].out_features
        rows = max(1, (BLOCK if self.packed is None else PACKED_BLOCK) // vocabulary)
        for start in range(0, max(1, len(hidden)), rows):
            yield start, self(hidden[start : start + rows])
