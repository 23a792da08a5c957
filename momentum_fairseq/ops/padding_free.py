"""Attention over sequences that lie one after the other without padding; `cu_seqlens` says where each begins."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops.causal_by_kernel import causal_by_kernel
from momentum_fairseq.ops.checks import check_causal, check_momentum, check_shapes, checked_eps, checked_state, shapes_of
from momentum_fairseq.ops.feature_maps import FeatureMap
from momentum_fairseq.ops.kernel_choice import kernel_for, map_where_needed
from momentum_fairseq.ops.linear_attention import LinearState, causal_linear_attention, linear_attention
from momentum_fairseq.ops.momentum_attention import MomentumState, causal_momentum_attention, momentum_attention
from momentum_fairseq.ops.momentum_weights import weights_of_counts

CAUSAL = {causal_momentum_attention: MomentumState, causal_linear_attention: LinearState}


def padding_free_attention(
    attention: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens: Tensor,
    key_cu_seqlens: Tensor | None = None,
    max_length: int | None = None,
    **options: Any,
) -> Any:
    """What `attention` gives for each of n sequences alone; exact, differentiable, without a loop over the sequences.

    Triton's kernels for momentum and linear attention, causal or not, read each sequence where it lies. All else works through
    a padded batch `[n,H,L,D]` of the longest sequence's length L: sort very different lengths into batches.

    Args:
        attention: an op of this package on q `[B,H,N,D]`, k `[B,H,S,D]`, v `[B,H,S,M]` that takes `key_padding_mask`.
        q: queries of all sequences `[1,H,T,D]`.
        k: keys of all sequences `[1,H,U,D]`.
        v: values of all sequences `[1,H,U,M]`.
        cu_seqlens: int32 or int64 `[n+1]`: sequence i has the queries cu_seqlens[i] … cu_seqlens[i+1] − 1.
        key_cu_seqlens: the same of keys and values; None = as the queries.
        max_length: no sequence has more queries or keys; None = look, which waits for the device.
        options: of the op; `initial_state` and the state that `return_state` gives have a row for each sequence.

    Returns:
        `[1,H,T,M]`; with `return_state` a pair of it and the state.

    Raises:
        ValueError: shapes, devices or `cu_seqlens` that don't fit. The numbers in `cu_seqlens` are read if it is on the CPU or
            `max_length` is None.
    """
    if key_cu_seqlens is None:
        key_cu_seqlens = cu_seqlens
    if not (q.dim() == k.dim() == v.dim() == 4 and q.shape[0] == k.shape[0] == v.shape[0] == 1):
        raise ValueError(f"padding-free attention takes q [1,H,T,D], k [1,H,U,D], v [1,H,U,M]; got {shapes_of(q, k, v)}")
    lengths = [
        check_cu_seqlens(name, cu, x, max_length)
        for name, cu, x in (("cu_seqlens", cu_seqlens, q), ("key_cu_seqlens", key_cu_seqlens, k))
    ]
    if len(cu_seqlens) != len(key_cu_seqlens):
        raise ValueError(
            f"queries and keys must be of as many sequences, got cu_seqlens of {len(cu_seqlens) - 1} "
            f"and key_cu_seqlens of {len(key_cu_seqlens) - 1}"
        )
    by_kernel = kernel_for(q, v, options.get("feature_map")) == "triton"
    if by_kernel and attention in (momentum_attention, linear_attention):
        return attend_by_kernel(attention, q, k, v, (cu_seqlens, key_cu_seqlens), tuple(lengths), **options)
    if by_kernel and attention in CAUSAL and key_cu_seqlens is cu_seqlens:
        return attend_causally_by_kernel(attention, q, k, v, cu_seqlens, lengths[0], **options)
    q_padded, _ = padded(q, cu_seqlens, lengths[0])
    k, padding = padded(k, key_cu_seqlens, lengths[1])
    v, _ = padded(v, key_cu_seqlens, lengths[1])
    result = attention(q_padded, k, v, key_padding_mask=padding, **options)
    if not isinstance(result, tuple):
        return unpadded(result, cu_seqlens, q.shape[2])
    out, state = result
    return unpadded(out, cu_seqlens, q.shape[2]), state


def attend_by_kernel(
    attention: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds: tuple[Tensor, Tensor],
    most: tuple[int, int],
    *,
    eps: float = 1e-6,
    feature_map: FeatureMap | None = None,
    **numbers: float | Tensor,
) -> Tensor:
    """`momentum_attention` with its numbers, or `linear_attention` without, of each sequence."""
    from momentum_fairseq.ops.kernels.noncausal import attend  # only where triton is installed

    check_shapes(q, k, v, None)
    eps = checked_eps(eps)
    if attention is momentum_attention:
        check_momentum(**numbers, heads=q.shape[1])
    if any(isinstance(x, Tensor) for x in numbers.values()):
        after = bounds[1][sequence_of(bounds[1], k.shape[2]) + 1] - torch.arange(k.shape[2], device=k.device)
        numbers = {"weights": weights_of_counts(after.double(), **numbers)}
    q, k, mapped = map_where_needed(q, k, feature_map, "triton")
    return attend(q, k, v, bounds=bounds, most=most, eps=eps, mapped=mapped, **numbers)


def attend_causally_by_kernel(
    attention: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds: Tensor,
    longest: int,
    *,
    eps: float = 1e-6,
    initial_state: LinearState | MomentumState | None = None,
    return_state: bool = False,
    feature_map: FeatureMap | None = None,
    **numbers: float | Tensor,
) -> Any:
    """`causal_momentum_attention` with its numbers, or `causal_linear_attention` without, of each sequence."""
    check_shapes(q, k, v, None)
    eps = checked_eps(eps)
    check_causal(q, k)
    kind = CAUSAL[attention]
    if kind is MomentumState:
        check_momentum(**numbers, heads=q.shape[1])
    else:
        numbers = {"momentum": None, **numbers}
    state = initial_state
    if state is not None:
        state = checked_state(state, kind, k.expand(len(bounds) - 1, -1, -1, -1), v, feature_map)
        state = (state.s, None if kind is LinearState else state.m, state.z)
    out, state = causal_by_kernel(
        q, k, v, key_padding_mask=None, eps=eps, initial_state=state, return_state=return_state, feature_map=feature_map,
        bounds=bounds, longest=longest, **numbers,
    )  # fmt: skip
    if not return_state:
        return out
    s, m, z = state
    return out, LinearState(s, z) if kind is LinearState else MomentumState(s, m, z)


def check_cu_seqlens(name: str, cu_seqlens: Tensor, x: Tensor, max_length: int | None) -> int:
    """The length to fill all sequences of x `[1,H,T,D]` up to; ValueError where `cu_seqlens` doesn't describe them."""
    total = x.shape[2]
    if cu_seqlens.dtype not in (torch.int32, torch.int64) or cu_seqlens.dim() != 1 or len(cu_seqlens) == 0:
        raise ValueError(f"{name} must be int32 or int64 [n+1], got {cu_seqlens.dtype} {list(cu_seqlens.shape)}")
    if cu_seqlens.device != x.device:
        raise ValueError(f"{name} must be where q, k and v are, on {x.device}; it is on {cu_seqlens.device}")
    if max_length is not None and (cu_seqlens.device.type != "cpu" or torch.compiler.is_compiling()):
        return max_length
    bounds = cu_seqlens.tolist()
    lengths = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
    for i, length in enumerate(lengths):
        if length < 0:
            raise ValueError(f"{name} must ascend, got {bounds[i]} before {bounds[i + 1]} at [{i}]")
    if bounds[0] != 0 or bounds[-1] != total:
        raise ValueError(f"{name} must begin with 0 and end with {total}, as many as there are; got {bounds[0]} and {bounds[-1]}")
    longest = max(lengths, default=0)
    if max_length is not None and longest > max_length:
        raise ValueError(f"{name} has a sequence of {longest}, above max_length {max_length}")
    return longest if max_length is None else max_length


def padded(x: Tensor, cu_seqlens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """`[1,H,T,D]` → `[n,H,L,D]` and where it is padding, bool `[n,L]`."""
    start, end = cu_seqlens[:-1, None], cu_seqlens[1:, None]
    position = start + torch.arange(length, device=x.device)
    padding = position >= end
    x = x if x.shape[2] else F.pad(x, (0, 0, 0, 1))  # a row to select, which nothing reads
    rows = x[0].index_select(1, torch.where(padding, 0, position).flatten()).unflatten(1, padding.shape).transpose(0, 1)
    # Ones: of a query of zeros the gradient could be 0/0.
    return torch.where(padding[:, None, :, None], x.new_ones(()), rows), padding


def unpadded(x: Tensor, cu_seqlens: Tensor, total: int) -> Tensor:
    """`[n,H,L,M]` → `[1,H,T,M]`."""
    sequence = sequence_of(cu_seqlens, total)
    rows = x.transpose(1, 2)[sequence, torch.arange(total, device=x.device) - cu_seqlens[sequence]]  # [T,H,M]
    return rows.transpose(0, 1).unsqueeze(0)


def sequence_of(cu_seqlens: Tensor, total: int) -> Tensor:
    """The number of the sequence that each position is of, `[T]`."""
    return torch.searchsorted(cu_seqlens[1:].long(), torch.arange(total, device=cu_seqlens.device), right=True)
