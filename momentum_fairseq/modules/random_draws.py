"""Random numbers of a module that are drawn anew in the course of a training, and stay the same otherwise."""

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor, nn


class RandomDraws(nn.Module):
    """Random numbers, drawn anew every so many updates of a training; who trains calls `set_num_updates`, as fairseq does.

    Draw n is a function of n and of a seed that torch's generator gave when the module was made. Both are saved, and the numbers
    drawn again from them: a resumed training reads what an uninterrupted one reads, evaluation what the last update read, and
    an average of checkpoints what its last one read (an average of the numbers would be of no distribution).

    Args:
        draw: from a generator on the CPU to float32 numbers on the CPU.
        interval: updates between two draws; 0 = the first one stays.
    """

    def __init__(self, draw: Callable[[torch.Generator], Tensor], interval: int) -> None:
        super().__init__()
        self.draw, self.interval, self.drawn = draw, interval, 0
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))
        self.register_buffer("values", self._numbers(), persistent=False)

    def forward(self) -> Tensor:
        """The numbers of the present draw."""
        return self.values

    def set_num_updates(self, num_updates: int) -> None:
        """Draw anew if so many updates of a training ask for it."""
        wanted = num_updates // self.interval if self.interval else 0
        if wanted != self.drawn:
            self.number.fill_(wanted)
            self._redraw()

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._redraw()

    def _redraw(self) -> None:
        if self.seed.is_meta:  # nothing is loaded into these
            return
        self.drawn = int(self.number)  # beside the buffer, which a GPU would be waited for at each update
        numbers = self._numbers()
        self.values = numbers.to(self.values.dtype) if self.values.is_meta else self.values.copy_(numbers)

    def _numbers(self) -> Tensor:
        """On the seed's device; of a seed on `meta`, which has no value, the shape is all that counts."""
        # torch's generator on the CPU reads 32 bits of its seed; Random makes them of all of its own.
        seed = 0 if self.seed.is_meta else Random(f"{int(self.seed)} {int(self.number)}").getrandbits(32)
        with torch.device("cpu"):  # where a model is built within torch.device("meta") or torch.device("cuda")
            return self.draw(torch.Generator().manual_seed(seed)).to(self.seed.device)
