"""Momentum attention: linear attention with a heavy ball (Nguyen et al., "Momentum Transformer", MSML 2022)."""

import math
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from momentum_fairseq.ops.causal_chunks import (
    StateWeights,
    causal_attention,
    chunk_length,
    chunked,
    in_full_precision,
    last_chunk,
    no_autocast,
    number_of_chunks,
    states_between,
)
from momentum_fairseq.ops.checks import check_causal, check_momentum, check_shapes, check_state, check_step
from momentum_fairseq.ops.linear_attention import read_state, weighted_linear_attention

T = TypeVar("T")


def momentum_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Every query reads the last state of the heavy-ball recurrence (Nguyen et al. 2022, Eq. 14).

        o_i = Σ_j γ w_{N−j} (q_i·k_j) v_j / (Σ_j q_i·k_j + eps)        w_d = (1 − β^{d+1}) / (1 − β)

    N is the sentence's own number of real keys, so neither padding nor batch mates change a row.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        k: keys `[B,H,S,D]`, already feature-mapped.
        v: values `[B,H,S,M]`.
        momentum: β in [0, 1), or a tensor `[H]`, one a head.
        step_size: γ > 0, or a tensor `[H]`.
        key_padding_mask: bool `[B,S]`, True = padding, on either side.
        eps: added to the normaliser.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes that disagree; a number β outside [0, 1) or γ <= 0.
    """
    check_shapes(q, k, v, key_padding_mask)
    check_momentum(momentum, step_size, q.shape[1])
    dtype = torch.promote_types(v.dtype, torch.float32)
    weights = momentum_weights(k.shape[2], momentum, step_size, key_padding_mask, dtype=dtype, device=v.device)
    return weighted_linear_attention(q, k, v, weights, key_padding_mask, eps)


def momentum_weights(
    keys: int,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """γ (1 − β^c) / (1 − β) for each key, c being the number of real keys at its position and after (Eq. 14).

    1 − β^c is computed as −expm1(c log β), which loses no digits as β → 1. Padding gets a finite weight that nobody reads.

    Returns:
        `[S]`, or `[B,1,S]` with a mask; `[H,S]` or `[B,H,S]` with one momentum or step size a head.
    """
    if key_padding_mask is None and not isinstance(momentum, Tensor) and not isinstance(step_size, Tensor):
        return fixed_weights(keys, momentum, step_size, dtype, device)
    if key_padding_mask is None:
        count = torch.arange(keys, 0, -1, dtype=dtype, device=device)
    else:
        real = ~key_padding_mask
        seen = real.cumsum(-1)
        count = (seen[:, -1:] - seen + real).clamp(min=1).to(dtype).unsqueeze(1)
    return weights_of_counts(count, momentum, step_size)


@lru_cache(maxsize=64)
def fixed_weights(keys: int, momentum: float, step_size: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights `[S]` without padding and with fixed numbers, kept: at batch 1 they would cost as much as a product."""
    with torch.inference_mode(False):  # a tensor kept from decoding may serve a training
        return weights_of_counts(torch.arange(keys, 0, -1, dtype=dtype, device=device), momentum, step_size)


def weights_of_counts(count: Tensor, momentum: float | Tensor, step_size: float | Tensor) -> Tensor:
    """γ (1 − β^c) / (1 − β) for counts c >= 1 of any shape `[..., S]`; `[..., H, S]` with one momentum or step size a head."""
    if isinstance(momentum, Tensor):
        momentum = momentum.to(count.dtype).unsqueeze(-1)
        # Two forms, for the gradients: the first keeps its digits down to 0, the second up to 1.
        below = 1 - momentum.pow(count)
        above = -torch.expm1(count * momentum.clamp(min=0.5).log())
        weights = torch.where(momentum < 0.5, below, above) / (1 - momentum)
    elif momentum == 0:
        weights = torch.ones_like(count)
    else:
        weights = torch.expm1(count * math.log(momentum)) / (momentum - 1)
    return weights * (step_size.to(count.dtype).unsqueeze(-1) if isinstance(step_size, Tensor) else step_size)


class MomentumState(NamedTuple):
    """What a prefix leaves behind, s and m `[B,H,D,M]` and z `[B,H,D]` of Eq. 12 with its signs, float32 or better.

    m is minus a decayed sum of k vᵀ, and s grows by −γ m.
    """

    s: Tensor
    m: Tensor
    z: Tensor

    def reorder(self, indices: Tensor) -> "MomentumState":
        """The state of the sentences (or beams) `indices` `[B']` of the batch, in that order."""
        return MomentumState(*(x.index_select(0, indices) for x in self))


def causal_momentum_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
    initial_state: MomentumState | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, MomentumState]:
    """Query i reads the state of the heavy-ball recurrence after key i (Nguyen et al. 2022, Eq. 12 and 13).

        o_i = Σ_{j≤i} γ w_{i−j} (q_i·k_j) v_j / (Σ_{j≤i} q_i·k_j + eps)        w_d = (1 − β^{d+1}) / (1 − β)

    i − j counts real keys, so neither padding nor batch mates change a row. Computed in chunks, in time and memory
    linear in N; every coefficient is positive, so no digits are lost as β → 1.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        k: keys `[B,H,N,D]`, already feature-mapped.
        v: values `[B,H,N,M]`.
        momentum: β in [0, 1), or a tensor `[H]`, one a head.
        step_size: γ > 0, or a tensor `[H]`.
        key_padding_mask: bool `[B,N]`, True = padding, anywhere.
        eps: added to the normaliser.
        initial_state: of the keys before the first one; None = there are none.
        return_state: also return the state after the last key.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better, zeros where no real key was seen; with `return_state` a
        pair of it and the state.

    Raises:
        ValueError: shapes that disagree, N != S, a state of other shapes; a number β outside [0, 1) or γ <= 0.
    """
    check_shapes(q, k, v, key_padding_mask)
    check_causal(q, k)
    check_momentum(momentum, step_size, q.shape[1])
    if initial_state is not None:
        check_state(initial_state, MomentumState, k, v)
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v, key_padding_mask)
        real = None if key_padding_mask is None else ~key_padding_mask[:, None, :, None]
        state, z = None, None
        if initial_state is not None:
            s, m, z = (x.to(v.dtype) for x in initial_state)
            state = torch.cat([s, -m], dim=2)
        length = k.shape[2]
        chunks = number_of_chunks(length, k.shape[3], v.shape[3], matrices=2)
        numbers = (momentum, step_size, v.dtype, v.device)
        chunk = (chunk_length(length, chunks), None if real is None else chunked(real, chunks), *numbers)
        weights = None if chunks == 1 and state is None else state_weights(*chunk)
        out, state, z = causal_attention(q, k, v, chunks, weights_within(*chunk), weights, state, z, eps)
        out = out.to(out_dtype)
        if not return_state:
            return out
        k, v = last_chunk(k, chunks), last_chunk(v, chunks)
        weights = state_weights(k.shape[3], None if real is None else last_chunk(real, chunks), *numbers)
        states, sums = states_between(k, v, weights, state, z)
        s, m = states[:, :, -1].chunk(2, dim=2)
        return out, MomentumState(s.contiguous(), -m, sums[:, :, -1].contiguous())  # views would keep all states


def momentum_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: MomentumState | None,
    *,
    momentum: float | Tensor,
    step_size: float | Tensor,
    eps: float = 1e-6,
    in_place: bool = False,
) -> tuple[Tensor, MomentumState]:
    """One more position of causal momentum attention, in time and memory that don't depend on the prefix (Eq. 12).

    Args:
        q: query `[B,H,D]`, already feature-mapped.
        k: key `[B,H,D]`, already feature-mapped.
        v: value `[B,H,M]`.
        momentum: β in [0, 1), or a tensor `[H]`, one a head.
        step_size: γ > 0, or a tensor `[H]`.
        state: of the positions before; None = there are none.
        eps: added to the normaliser.
        in_place: write the new state over the given one, which saves the time to get new memory.

    Returns:
        `[B,H,M]` in v's dtype, and the new state.

    Raises:
        ValueError: shapes that disagree; a number β outside [0, 1) or γ <= 0.
        RuntimeError: in_place where gradients are taken.
    """
    check_step(q, k, v)
    check_momentum(momentum, step_size, q.shape[1])
    if state is not None:
        check_state(state, MomentumState, k, v)
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v)
        beta, gamma = (x.to(v.dtype).reshape(-1, 1, 1) if isinstance(x, Tensor) else x for x in (momentum, step_size))
        if state is None:
            m = -k.unsqueeze(-1) * v.unsqueeze(-2)
            s, z = -gamma * m, k.clone()
        else:
            s, m, z = (x.to(v.dtype) for x in state)
            # Not β m: the rounding of β, the same at each step, would add up over them as β → 1.
            m = subtract(m, m, 1 - beta, out=m if in_place else None)
            m = torch.addcmul(m, k.unsqueeze(-1), v.unsqueeze(-2), value=-1, out=m if in_place else None)
            s = subtract(s, m, gamma, out=s if in_place else None)
            z = torch.add(z, k, out=z if in_place else None)
        return read_state(q, s, z, eps).to(out_dtype), MomentumState(s, m, z)


def subtract(x: Tensor, y: Tensor, factor: float | Tensor, *, out: Tensor | None) -> Tensor:
    """x − factor y, in one pass."""
    if isinstance(factor, Tensor):
        return torch.addcmul(x, y, factor, value=-1, out=out)
    return torch.sub(x, y, alpha=factor, out=out)


def kept_where_fixed(weights: Callable[..., T]) -> Callable[..., T]:
    """Keep what `weights(size, real, momentum, step_size, dtype, device)` gives for fixed numbers and no padding.

    To make it anew would take as long as the products of a short sequence.
    """
    kept = lru_cache(maxsize=64)(weights)

    @wraps(weights)
    def look_up_or_make(size: int, real: Tensor | None, momentum: float | Tensor, step_size: float | Tensor, *more: Any) -> T:
        if real is not None or isinstance(momentum, Tensor) or isinstance(step_size, Tensor):
            return weights(size, real, momentum, step_size, *more)
        with torch.inference_mode(False):  # a tensor kept from decoding may serve a training
            return kept(size, None, momentum, step_size, *more)

    return look_up_or_make


@kept_where_fixed
def weights_within(
    size: int,
    real: Tensor | None,
    momentum: float | Tensor,
    step_size: float | Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """γ w_{r−j} of key j in query r of the same chunk of `size` positions, `[..,L,L]`; anything finite for j > r.

    Args:
        real: bool `[B,1,C,L,1]`, False = padding, which doesn't count; None = no padding.
    """
    rank, _ = count_keys(size, real, device)
    distance = (rank.unsqueeze(-1) - rank.unsqueeze(-2)).clamp(min=0)
    return look_up(growth_by_count(size, momentum, step_size, device).to(dtype), distance + 1)


@kept_where_fixed
def state_weights(
    size: int,
    real: Tensor | None,
    momentum: float | Tensor,
    step_size: float | Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> StateWeights:
    """The weights of the state (s, −m) over chunks of `size` positions, of which the keys up to `r`, R in all, are real.

        o_r = q_r·s + γ β (1 − β^r) / (1 − β) q_r·(−m) + what the chunk's own keys add
        s'  = s + γ β (1 − β^R) / (1 − β) (−m) + Σ_j γ w_{R−j} k_j v_jᵀ
        −m' = β^R (−m) + Σ_j β^{R−j} k_j v_jᵀ

    Args:
        real: as of `weights_within`.
    """
    rank, total = count_keys(size, real, device)
    further = total.unsqueeze(-1) - rank
    growth = growth_by_count(size, momentum, step_size, device)
    beta = momentum.double().reshape(-1, 1) if isinstance(momentum, Tensor) else momentum
    decay = (beta ** torch.arange(size + 1, dtype=torch.float64, device=device)).reshape(-1, size + 1)
    growth, decay = torch.broadcast_tensors(growth, decay)
    entry = beta * growth
    queries, gain = look_up(entry, rank), look_up(entry, total)
    zero = torch.zeros_like(gain)
    return StateWeights(
        queries=torch.stack([torch.ones_like(queries), queries], dim=-1).to(dtype),
        keys=torch.stack([look_up(growth, further + 1), look_up(decay, further)], dim=-1).to(dtype),
        gain=torch.stack([zero, gain, zero, look_up(decay - 1, total)], dim=-1).unflatten(-1, (2, 2)).to(dtype),
    )


def count_keys(size: int, real: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Real keys of each chunk up to each position, `[B,C,L]`, and in all of it, `[B,C]`; without padding B = C = 1."""
    if real is None:
        return torch.arange(1, size + 1, device=device).reshape(1, 1, -1), torch.full((1, 1), size, device=device)
    real = real.squeeze(-1).squeeze(1)
    return real.cumsum(-1), real.sum(-1)


def growth_by_count(size: int, momentum: float | Tensor, step_size: float | Tensor, device: torch.device) -> Tensor:
    """γ (1 − β^c) / (1 − β) for c = 0 … L, `[H,L+1]` or `[1,L+1]`, float64; times β also right for c = 0 and β = 0."""
    count = torch.arange(size + 1, dtype=torch.float64, device=device)
    return weights_of_counts(count, momentum, step_size).reshape(-1, size + 1)


def look_up(weights: Tensor, count: Tensor) -> Tensor:
    """`[H,L+1]` at counts `[B,C,...]` → `[B,H,C,...]`."""
    return weights[:, count].transpose(0, 1)
