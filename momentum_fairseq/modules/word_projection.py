"""From hidden states to words while decoding; the logits of a batch are never in memory together."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momentum_fairseq.modules.packed_linear import PackingOfOthers, product
from momentum_fairseq.modules.word_screen import WordScreen, can_screen, screened_argmax, word_screen
from momentum_fairseq.ops.row_argmax import row_argmax

LOGITS = 1 << 22  # in memory at once: 16 MB in float32; with fewer rows a plain product is slower
# With packed weights, a block at a time: a block's weights stay in a core's cache while many rows pass, and so do its logits.
ROWS, COLUMNS = 256, 4096


class PackedWords(NamedTuple):
    """Weight and bias of COLUMNS words each, and a screen where one is quicker."""

    blocks: list[tuple[Tensor, Tensor | None]]
    screen: WordScreen | None


class WordProjection(PackingOfOthers):
    """The best word of each of R positions, and scores of words.

    Args:
        owner: the module that has the projection `[..., C]` → `[..., V]`, and this one. name: of it there.
        first_word: the ids below are symbols that are never produced.
    """

    def __init__(self, owner: nn.Module, name: str, first_word: int) -> None:
        super().__init__(owner, name)
        self.first_word = first_word

    @property
    def _projection(self) -> nn.Linear:
        return self.linears()[0]

    def lay_out(self, weight: Tensor, bias: Tensor | None) -> PackedWords:
        weights = weight.split(COLUMNS)
        biases = [None] * len(weights) if bias is None else bias.split(COLUMNS)
        blocks = [super(WordProjection, self).lay_out(w, b) for w, b in zip(weights, biases, strict=True)]
        return PackedWords(blocks, word_screen(weight, self.first_word) if can_screen(weight, bias) else None)

    def best(self, hidden: Tensor) -> Tensor:
        """The most probable word of each position, `[R,C]` → int64 `[R]`; of equal logits the first word wins."""
        return torch.cat([self._best(rows) for rows in hidden.split(self._rows())])

    def scores(self, hidden: Tensor, words: Tensor) -> Tensor:
        """log p of one word a position: `[R,C]`, int64 `[R]` → float32 `[R]`."""
        rows = self._rows()
        return torch.cat([self._scores(*some) for some in zip(hidden.split(rows), words.split(rows), strict=True)])

    def _best(self, hidden: Tensor) -> Tensor:
        if self.packed is None or self.packed.screen is None:
            return self._exact_best(hidden)
        weight = self._projection.weight
        words = screened_argmax(hidden, weight, self.packed.screen)
        unsettled = words == len(weight)
        if unsettled.any():
            words[unsettled] = self._exact_best(hidden[unsettled])
        return words

    def _exact_best(self, hidden: Tensor) -> Tensor:
        words, highest = [], []
        for first, logits in self._logits(hidden):
            symbols = max(0, self.first_word - first)
            column = symbols + row_argmax(logits[:, symbols:]).unsqueeze(1)
            words.append(first + column)
            highest.append(logits.gather(1, column))
        block = torch.cat(highest, dim=1).argmax(1, keepdim=True)
        return torch.cat(words, dim=1).gather(1, block).squeeze(1)

    def _scores(self, hidden: Tensor, words: Tensor) -> Tensor:
        sums, chosen = [], torch.zeros(words.shape, device=hidden.device)
        for first, logits in self._logits(hidden):
            logits, columns = logits.float(), words - first
            sums.append(logits.logsumexp(-1))
            own = logits.gather(1, columns.clamp(0, logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
            chosen = torch.where((columns >= 0) & (columns < logits.shape[1]), own, chosen)
        return chosen - torch.stack(sums).logsumexp(0)

    def _logits(self, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first word of each block, and the block's logits `[R,v]`."""
        if self.packed is None:
            yield 0, self._projection(hidden)
            return
        for i, (weight, bias) in enumerate(self.packed.blocks):
            yield i * COLUMNS, product(hidden, weight, bias)

    def _rows(self) -> int:
        return ROWS if self.packed is not None else max(1, LOGITS // self._projection.out_features)
