"""In which precision an op computes, whatever it is given: in float32 at least, and not by autocast's choice."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def in_full_precision(q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in the dtype to sum in, float32 or better, with zeros for padding keys and values."""
    dtype = torch.promote_types(torch.promote_types(q.dtype, v.dtype), torch.float32)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if key_padding_mask is not None:
        # Both: a NaN in padding would come through a zero on the other side.
        padding, zero = key_padding_mask[:, None, :, None], k.new_zeros(())
        k, v = torch.where(padding, zero, k), torch.where(padding, zero, v)
    return q, k, v


def no_autocast(q: Tensor) -> AbstractContextManager:
    """A context without autocast; entering one takes as long as a small product, so only where there is one to leave."""
    device = q.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
