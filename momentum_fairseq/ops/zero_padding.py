"""Zeros in place of padding."""

import torch
from torch import Tensor


def zero_padding(padding: Tensor, x: Tensor) -> Tensor:
    """x `[B,H,S,...]` with zeros at padding `[B,1,S,1]`. Not masked_fill: half as fast on a CPU."""
    return torch.where(padding, x.new_zeros(()), x)


def zero_padding_(padding: Tensor, x: Tensor) -> Tensor:
    """`zero_padding`, in place: on a CPU only the rows that are padding, in a third of the time."""
    if x.device.type != "cpu":
        return x.masked_fill_(padding, 0)
    x.transpose(1, 2)[padding[:, 0, :, 0].nonzero(as_tuple=True)] = 0
    return x
