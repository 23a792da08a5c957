"""Real positions moved to the front, for attentions that count positions: padding on the left then changes nothing."""

import torch
from torch import Tensor


def real_first(key_padding_mask: Tensor) -> Tensor:
    """The order that puts each row's real positions first and keeps them in line: bool `[B,S]` → int64 `[B,S]`."""
    return key_padding_mask.long().argsort(dim=1, stable=True)


def take(x: Tensor, order: Tensor) -> Tensor:
    """The positions `order` of x: `[B,H,S,D]` and int64 `[B,S']` → `[B,H,S',D]`."""
    return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def put_back(x: Tensor, order: Tensor) -> Tensor:
    """The inverse of `take`."""
    return take(x, order.argsort(dim=1))


def real_counts(key_padding_mask: Tensor | None, x: Tensor) -> Tensor:
    """The number of real keys in each row of x `[B,H,S,D]`: int64 `[B]`."""
    if key_padding_mask is None:
        return torch.full((x.shape[0],), x.shape[2], device=x.device)
    return (~key_padding_mask).sum(1)
