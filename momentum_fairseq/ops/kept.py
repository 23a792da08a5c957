"""Tensors that are made of numbers alone, kept from call to call."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def kept(make: Callable[..., T]) -> Callable[..., T]:
    """Keep what `make` gives, since it would take as long as the products of a short sequence.

    Made anew of tensors, and while operations are traced: what is made there is of no use elsewhere, and what was made elsewhere
    of none there.

    Record a CUDA graph after a call like the recorded one: what it finds here then stays for good, since each replay reads it.
    What it doesn't find is made in each replay and not kept, as it has no numbers before the first.
    """
    recorded: dict[tuple[Any, ...], T] = {}

    @lru_cache(maxsize=64)
    def keep(*arguments: Any) -> T:
        with torch.inference_mode(False):  # a tensor first needed in decoding may serve a training
            return make(*arguments)

    @wraps(make)
    def look_up_or_make(*arguments: Any) -> T:
        if is_traced() or any(isinstance(x, Tensor) for x in arguments):
            return make(*arguments)
        if not cuda_graph_is_recorded():
            return keep(*arguments)
        misses = keep.cache_info().misses
        found = keep(*arguments)
        if keep.cache_info().misses == misses:
            recorded[arguments] = found
        else:
            keep.cache_clear()
        return found

    return look_up_or_make


def is_traced() -> bool:
    """Whether torch.compile or torch.export looks on, or a mode such as FakeTensorMode."""
    return torch.compiler.is_compiling() or bool(torch._C._len_torch_dispatch_stack())


def cuda_graph_is_recorded() -> bool:
    """Whether the current stream's kernels are recorded instead of run."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
