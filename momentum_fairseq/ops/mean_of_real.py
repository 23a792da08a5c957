"""The mean over the real positions of a sequence."""

import torch
from torch import Tensor


def mean_of_real(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """`[B,N,C]`, bool `[B,N]` (True = padding) → the mean over the real positions `[B,C]`, summed in float32 at least."""
    if padding_mask is None:
        return x.mean(1)  # torch sums half precision in float32 here
    dtype = torch.promote_types(x.dtype, torch.float32)
    count = (~padding_mask).sum(1, keepdim=True).clamp(min=1)
    return (x.masked_fill(padding_mask.unsqueeze(-1), 0.0).sum(1, dtype=dtype) / count).to(x.dtype)
