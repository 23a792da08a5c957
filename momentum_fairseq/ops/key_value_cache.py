"""What step-by-step softmax attention keeps of the tokens before: all their keys and values."""

from typing import NamedTuple

import torch
from torch import Tensor

FIRST_ROOM = 64


class KeyValueCache(NamedTuple):
    """Keys and values of the tokens read so far, in room that doubles when it is full: a new token copies itself only.

    `append` writes into the room, so only the cache that it returns may be appended to again; nor can gradients pass it.

    Attributes:
        k, v: `[B,H,R,D]`, `[B,H,R,M]`, room for R tokens.
        padding: bool `[B,R]`, True = padding; None while there was none.
        length: tokens held, at most R.
    """

    k: Tensor
    v: Tensor
    padding: Tensor | None
    length: int

    @classmethod
    def empty(cls, k: Tensor, v: Tensor) -> "KeyValueCache":
        """No tokens, for more of them like k `[B,H,N,D]` and v `[B,H,N,M]`."""
        return cls(k[:, :, :0], v[:, :, :0], None, 0)

    def append(self, k: Tensor, v: Tensor, padding: Tensor | None) -> "KeyValueCache":
        """The cache with N more tokens: `[B,H,N,D]`, `[B,H,N,M]`, bool `[B,N]` or None."""
        end = self.length + k.shape[2]
        cache = self if end <= self.k.shape[2] else self._with_room_for(end)
        cache.k[:, :, self.length : end] = k
        cache.v[:, :, self.length : end] = v
        if padding is None and cache.padding is None:
            return cache._replace(length=end)
        mask = k.new_zeros(k.shape[0], cache.k.shape[2], dtype=torch.bool) if cache.padding is None else cache.padding
        mask[:, self.length : end] = False if padding is None else padding
        return cache._replace(padding=mask, length=end)

    def held(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """k `[B,H,S,D]`, v `[B,H,S,M]` and their padding bool `[B,S]` of the S tokens held."""
        padding = None if self.padding is None else self.padding[:, : self.length]
        return self.k[:, :, : self.length], self.v[:, :, : self.length], padding

    def reorder(self, order: Tensor) -> "KeyValueCache":
        """The cache of other rows of the batch, int64 `[B']`, as beam search moves its hypotheses."""
        padding = None if self.padding is None else self.padding.index_select(0, order)
        return KeyValueCache(self.k.index_select(0, order), self.v.index_select(0, order), padding, self.length)

    def _with_room_for(self, tokens: int) -> "KeyValueCache":
        room = max(FIRST_ROOM, 2 * self.k.shape[2])
        while room < tokens:
            room *= 2

        def grown(x: Tensor, dim: int) -> Tensor:
            larger = x.new_zeros(*x.shape[:dim], room, *x.shape[dim + 1 :])
            larger.narrow(dim, 0, self.length).copy_(x.narrow(dim, 0, self.length))
            return larger

        padding = None if self.padding is None else grown(self.padding, 1)
        return KeyValueCache(grown(self.k, 2), grown(self.v, 2), padding, self.length)
