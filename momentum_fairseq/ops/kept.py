"""Tensors that are made of numbers alone, kept from call to call."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def kept(make: Callable[..., T]) -> Callable[..., T]:
    """Keep what `make` gives, since it would take as long as the products of a short sequence.

    Made anew of tensors, while torch.compile or torch.export looks on, and under modes such as FakeTensorMode: what is made there
    is of no use elsewhere, and what was made elsewhere of none there.
    """

    @lru_cache(maxsize=64)
    def keep(*arguments: Any) -> T:
        with torch.inference_mode(False):  # a tensor first needed in decoding may serve a training
            return make(*arguments)

    @wraps(make)
    def look_up_or_make(*arguments: Any) -> T:
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or any(isinstance(x, Tensor) for x in arguments):
            return make(*arguments)
        return keep(*arguments)

    return look_up_or_make
