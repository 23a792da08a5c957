"""Momentum attention: linear attention with a heavy ball (Nguyen et al., "Momentum Transformer", MSML 2022)."""

from typing import NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.causal_by_hand import CausalWeights, causal_attention_from_no_state
from momentum_fairseq.ops.causal_by_kernel import causal_by_kernel, step_by_kernel
from momentum_fairseq.ops.causal_chunks import (
    causal_attention,
    chunk_length,
    chunked,
    last_chunk,
    number_of_chunks,
    plain_scan,
    states_between,
)
from momentum_fairseq.ops.checks import check_causal, check_momentum, check_shapes, check_step, checked_eps, checked_state
from momentum_fairseq.ops.contraction_order import take_map
from momentum_fairseq.ops.feature_maps import FeatureMap, ProductMap
from momentum_fairseq.ops.kept import kept
from momentum_fairseq.ops.linear_attention import contract, read_state
from momentum_fairseq.ops.momentum_weights import (
    first_steady_count,
    momentum_weights,
    recent_weights,
    scan_weights,
    state_weights,
    weights_within,
)
from momentum_fairseq.ops.noncausal_by_hand import KeyWeights
from momentum_fairseq.ops.noncausal_by_kernel import momentum_by_kernel
from momentum_fairseq.ops.precision import in_full_precision, no_autocast

# Keys from which on to weigh the last ones alone saves time: a pass over the values costs more than a second product then.
STEADY = 1024


def momentum_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
    feature_map: FeatureMap | None = None,
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
        eps: added to the normaliser, not negative.
        feature_map: φ, to take of q and k first, which are then not yet feature-mapped; a kernel takes elu + 1 on the way.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes, dtypes or devices that disagree; eps < 0; β outside [0, 1) or γ <= 0, numbers or tensors
            (but on a GPU).
    """
    check_shapes(q, k, v, key_padding_mask)
    check_momentum(momentum, step_size, q.shape[1])
    eps = checked_eps(eps)
    numbers = {"momentum": momentum, "step_size": step_size}
    elsewhere = momentum_by_kernel(q, k, v, key_padding_mask=key_padding_mask, eps=eps, feature_map=feature_map, **numbers)
    if elsewhere is not None:
        return elsewhere
    dtype = torch.promote_types(v.dtype, torch.float32)
    weights = momentum_weights(k.shape[2], momentum, step_size, key_padding_mask, dtype=dtype, device=v.device)
    fixed = key_padding_mask is None and not isinstance(momentum, Tensor) and not isinstance(step_size, Tensor)
    long = k.shape[2] >= STEADY
    steady = steady_weights(k.shape[2], momentum, step_size, dtype, v.device) if fixed and long else None
    return contract(q, k, v, weights, key_padding_mask, eps, feature_map, steady)


@kept
def steady_weights(keys: int, momentum: float, step_size: float, dtype: torch.dtype, device: torch.device) -> KeyWeights:
    """The fixed weights `[S]`: γ / (1 − β) but for the last keys, before which 1 − β^c is rounded to one."""
    changing = min(keys, first_steady_count(momentum, dtype))
    scale = step_size / (1 - momentum)
    weights = momentum_weights(keys, momentum, step_size, None, dtype=dtype, device=device)[keys - changing :]
    return KeyWeights(scale, keys - changing, weights / scale if changing else None)


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
    feature_map: FeatureMap | None = None,
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
        eps: added to the normaliser, not negative.
        initial_state: of the keys before the first one, or a plain tuple of its tensors; None = there are none.
        return_state: also return the state after the last key.
        feature_map: φ, to take of q and k first, which are then not yet feature-mapped; a kernel takes elu + 1 on the way.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better, zeros where no real key was seen; with `return_state` a
        pair of it and the state.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, N != S, a state of other shapes; eps < 0; β outside [0, 1) or
            γ <= 0, numbers or tensors (but on a GPU).
    """
    check_shapes(q, k, v, key_padding_mask)
    check_causal(q, k)
    check_momentum(momentum, step_size, q.shape[1])
    eps = checked_eps(eps)
    if initial_state is not None:
        initial_state = checked_state(initial_state, MomentumState, k, v, feature_map)
    elsewhere = causal_by_kernel(
        q, k, v, momentum=momentum, step_size=step_size, key_padding_mask=key_padding_mask, eps=eps, initial_state=initial_state,
        return_state=return_state, feature_map=feature_map,
    )  # fmt: skip
    if elsewhere is not None:
        out, state = elsewhere
        return (out, MomentumState(*state)) if return_state else out
    from_no_state = initial_state is None and not return_state
    q, k, product_map = take_map(feature_map, q, k, v, by_products=from_no_state)
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v, key_padding_mask)
        real = None if key_padding_mask is None else ~key_padding_mask[:, None, :, None]
        if from_no_state:
            return attend_from_no_state(q, k, v, real, momentum, step_size, eps, product_map).to(out_dtype)
        out, state = attend_between_states(q, k, v, real, momentum, step_size, eps, initial_state, return_state)
        return out.to(out_dtype) if state is None else (out.to(out_dtype), state)


def attend_from_no_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    real: Tensor | None,
    momentum: float | Tensor,
    step_size: float | Tensor,
    eps: float,
    product_map: ProductMap | None,
) -> Tensor:
    """Causal attention `[B,H,N,M]` without a state before or after; real bool `[B,1,N,1]`, False = padding.

    With a map q and k aren't feature-mapped yet, and the sequence is one chunk.
    """
    length, dims, numbers = k.shape[2], (k.shape[3], v.shape[3]), (momentum, step_size, v.dtype, v.device)
    chunks, recent = 1 if product_map else number_of_chunks(length, *dims, matrices=1), None
    if chunks > 1:
        if real is None and not isinstance(momentum, Tensor) and not isinstance(step_size, Tensor):
            recent = recent_weights(chunk_length(length, chunks), *numbers)
        if recent is None:  # two matrices of state cost more: one chunk may be cheaper now
            chunks = number_of_chunks(length, *dims, matrices=2)
    size = chunk_length(length, chunks)
    real_in_chunks = None if real is None else chunked(real, chunks)
    within = weights_within(size, real_in_chunks, *numbers)
    state = scan = None
    if chunks > 1:
        state = state_weights(size, real_in_chunks, *numbers)
        if real is None:
            scan = scan_weights(size, *numbers) if recent is None else plain_scan(v.dtype, v.device)
    padding = None if real is None or product_map is None else ~real
    weights = CausalWeights(within, state, scan, recent)
    return causal_attention_from_no_state(q, k, v, chunks, weights, eps, product_map, padding)


def attend_between_states(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    real: Tensor | None,
    momentum: float | Tensor,
    step_size: float | Tensor,
    eps: float,
    initial: MomentumState | None,
    return_state: bool,
) -> tuple[Tensor, MomentumState | None]:
    """As `attend_from_no_state`, from an initial state if there is one; with `return_state` also the state after the last key."""
    state, z = None, None
    if initial is not None:
        s, m, z = (x.to(v.dtype) for x in initial)
        state = torch.cat([s, -m], dim=2)
    length = k.shape[2]
    chunks = number_of_chunks(length, k.shape[3], v.shape[3], matrices=2)
    numbers = (momentum, step_size, v.dtype, v.device)
    size, real_in_chunks = chunk_length(length, chunks), None if real is None else chunked(real, chunks)
    within = weights_within(size, real_in_chunks, *numbers)
    weights = None if chunks == 1 and state is None else state_weights(size, real_in_chunks, *numbers)
    out, state, z = causal_attention(q, k, v, chunks, within, weights, state, z, eps)
    if not return_state:
        return out, None
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
    feature_map: FeatureMap | None = None,
) -> tuple[Tensor, MomentumState]:
    """One more position of causal momentum attention, in time and memory that don't depend on the prefix (Eq. 12).

    Args:
        q: query `[B,H,D]`, already feature-mapped.
        k: key `[B,H,D]`, already feature-mapped.
        v: value `[B,H,M]`.
        momentum: β in [0, 1), or a tensor `[H]`, one a head.
        step_size: γ > 0, or a tensor `[H]`.
        state: of the positions before, or a plain tuple of its tensors; None = there are none.
        eps: added to the normaliser, not negative.
        in_place: write the new state over the given one, which saves the time to get new memory.
        feature_map: φ, to take of q and k first, which are then not yet feature-mapped; a kernel takes elu + 1 on the way.

    Returns:
        `[B,H,M]` in v's dtype, and the new state.

    Raises:
        ValueError: shapes, dtypes or devices that disagree; eps < 0; β outside [0, 1) or γ <= 0, numbers or tensors
            (but on a GPU).
        RuntimeError: in_place where gradients are taken.
    """
    check_step(q, k, v)
    check_momentum(momentum, step_size, q.shape[1])
    eps = checked_eps(eps)
    if state is not None:
        state = checked_state(state, MomentumState, k, v, feature_map)
    numbers = {"momentum": momentum, "step_size": step_size}
    elsewhere = step_by_kernel(q, k, v, state, eps=eps, in_place=in_place, feature_map=feature_map, **numbers)
    if elsewhere is not None:
        out, state = elsewhere
        return out, MomentumState(*state)
    if feature_map is not None:
        q, k = feature_map(q), feature_map(k)
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
