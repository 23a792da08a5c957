"""Linear attention (Katharopoulos et al., "Transformers are RNNs", ICML 2020), weighted for momentum attention."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.causal_by_hand import CausalWeights, causal_attention_from_no_state
from momentum_fairseq.ops.causal_by_kernel import causal_by_kernel, step_by_kernel
from momentum_fairseq.ops.causal_chunks import causal_attention, last_chunk, number_of_chunks, plain_scan, states_between
from momentum_fairseq.ops.checks import check_causal, check_shapes, check_step, checked_eps, checked_state
from momentum_fairseq.ops.contraction_order import quadratic_order_is_cheaper, take_map
from momentum_fairseq.ops.feature_maps import FeatureMap, ProductMap
from momentum_fairseq.ops.noncausal_by_hand import KeyWeights, attention_by_hand, copied
from momentum_fairseq.ops.noncausal_by_kernel import weighted_by_kernel
from momentum_fairseq.ops.passes_by_hand import takes_passes_by_hand
from momentum_fairseq.ops.precision import in_full_precision, no_autocast
from momentum_fairseq.ops.short_attention import short_attention
from momentum_fairseq.ops.sum_of_products import sum_of_products
from momentum_fairseq.ops.zero_padding import zero_padding, zero_padding_


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
    feature_map: FeatureMap | None = None,
) -> Tensor:
    """Σ_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps) over the real keys, not causal.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        k: keys `[B,H,S,D]`, already feature-mapped.
        v: values `[B,H,S,M]`.
        key_padding_mask: bool `[B,S]`, True = padding.
        eps: added to the normaliser, not negative.
        feature_map: φ, to take of q and k first, which are then not yet feature-mapped; a kernel takes elu + 1 on the way.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes, dtypes or devices that disagree; eps < 0.
    """
    check_shapes(q, k, v, key_padding_mask)
    eps = checked_eps(eps)
    return weighted_linear_attention(q, k, v, None, key_padding_mask, eps, feature_map)


def weighted_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    key_padding_mask: Tensor | None,
    eps: float,
    feature_map: FeatureMap | None = None,
) -> Tensor:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps), contracted in the cheaper order.

    The weights `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]` touch the numerator only; padding is in neither sum, whatever it
    holds.
    """
    elsewhere = weighted_by_kernel(q, k, v, weights, key_padding_mask, eps, feature_map)
    return contract(q, k, v, weights, key_padding_mask, eps, feature_map) if elsewhere is None else elsewhere


def contract(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    key_padding_mask: Tensor | None,
    eps: float,
    feature_map: FeatureMap | None = None,
    steady: KeyWeights | None = None,
) -> Tensor:
    """`weighted_linear_attention` by torch's own operations; `steady` says the same of the weights more shortly."""
    q, k, product_map = take_map(feature_map, q, k, v)
    out_dtype = v.dtype
    dtype = torch.promote_types(torch.promote_types(q.dtype, v.dtype), torch.float32)
    with no_autocast(q):
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        weights = None if weights is None else weights.to(dtype)
        padding = None if key_padding_mask is None else key_padding_mask[:, None, :, None]  # [B,1,S,1]
        quadratic = product_map is not None or quadratic_order_is_cheaper(q.shape[2], k.shape[2], q.shape[3], v.shape[3])
        order = partial(quadratic_order, product_map=product_map) if quadratic else linear_order
        plain = partial(order, padding=padding, eps=eps)
        if not takes_passes_by_hand():
            return plain(q, k, v, weights).to(out_dtype)
        learned = any(x is not None and x.requires_grad for x in (q, k, v, weights))
        if quadratic and not (learned and torch.is_grad_enabled()):
            v = v if padding is None else zero_padding_(padding, copied(v))
            return short_attention(
                q, k, v, weights, key_padding_mask=key_padding_mask, eps=eps, product_map=product_map
            ).to(out_dtype)
        return attention_by_hand(q, k, v, weights, steady, padding, eps, quadratic, plain, product_map).to(out_dtype)


def quadratic_order(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    padding: Tensor | None,
    eps: float,
    product_map: ProductMap | None = None,
) -> Tensor:
    """(q kᵀ) v, recorded: weights and normaliser go on the scores, the smallest tensor where this order is chosen.

    With a map, q and k aren't feature-mapped yet.
    """
    if padding is not None:  # both: a NaN in padding would come through a zero on the other side
        k, v = zero_padding(padding, k), zero_padding(padding, v)
    scores = k @ q.transpose(-1, -2)  # [B,H,S,N]
    if product_map is not None:
        scores = product_map.of_products(scores, q.shape[3])
        scores = scores if padding is None else zero_padding(padding, scores)
    normaliser = scores.sum(-2, keepdim=True) + eps
    scores = (scores if weights is None else scores * weights.unsqueeze(-1)) / normaliser
    return scores.transpose(-1, -2) @ v


def linear_order(q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, padding: Tensor | None, eps: float) -> Tensor:
    """q (kᵀ v), recorded: memory grows with N + S only."""
    if padding is not None:
        k, v = zero_padding(padding, k), zero_padding(padding, v)
    state = sum_of_products(v if weights is None else v * weights.unsqueeze(-1), k)  # [B,H,M,D]
    normaliser = (k.sum(-2, keepdim=True) @ q.transpose(-1, -2)).transpose(-1, -2) + eps  # [B,H,N,1]
    return q @ state.transpose(-1, -2) / normaliser


class LinearState(NamedTuple):
    """What a prefix leaves behind: s_i = Σ_{j≤i} k_j v_jᵀ `[B,H,D,M]`, z_i = Σ_{j≤i} k_j `[B,H,D]`, float32 or better."""

    s: Tensor
    z: Tensor

    def reorder(self, indices: Tensor) -> "LinearState":
        """The state of the sentences (or beams) `indices` `[B']` of the batch, in that order."""
        return LinearState(*(x.index_select(0, indices) for x in self))


def causal_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
    initial_state: LinearState | None = None,
    return_state: bool = False,
    feature_map: FeatureMap | None = None,
) -> Tensor | tuple[Tensor, LinearState]:
    """Σ_{j≤i} (q_i·k_j) v_j / (Σ_{j≤i} q_i·k_j + eps) over the real keys, in time and memory linear in N.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        k: keys `[B,H,N,D]`, already feature-mapped.
        v: values `[B,H,N,M]`.
        key_padding_mask: bool `[B,N]`, True = padding, anywhere.
        eps: added to the normaliser, not negative.
        initial_state: of the keys before the first one, or a plain tuple of its tensors; None = there are none.
        return_state: also return the state after the last key.
        feature_map: φ, to take of q and k first, which are then not yet feature-mapped; a kernel takes elu + 1 on the way.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better, zeros where no real key was seen; with `return_state` a
        pair of it and the state.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, N != S, or a state of other shapes; eps < 0.
    """
    check_shapes(q, k, v, key_padding_mask)
    eps = checked_eps(eps)
    check_causal(q, k)
    if initial_state is not None:
        initial_state = checked_state(initial_state, LinearState, k, v, feature_map)
    elsewhere = causal_by_kernel(
        q, k, v, momentum=None, key_padding_mask=key_padding_mask, eps=eps, return_state=return_state,
        initial_state=None if initial_state is None else (initial_state.s, None, initial_state.z), feature_map=feature_map,
    )  # fmt: skip
    if elsewhere is not None:
        out, state = elsewhere
        return (out, LinearState(state[0], state[2])) if return_state else out
    from_no_state = initial_state is None and not return_state
    q, k, product_map = take_map(feature_map, q, k, v, by_products=from_no_state)
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v, key_padding_mask)
        s, z = (None, None) if initial_state is None else (x.to(v.dtype) for x in initial_state)
        chunks = 1 if product_map else number_of_chunks(k.shape[2], k.shape[3], v.shape[3], matrices=1)
        if from_no_state:
            weights = CausalWeights(scan=None if chunks == 1 else plain_scan(v.dtype, v.device))
            padding = None if key_padding_mask is None else key_padding_mask[:, None, :, None]
            return causal_attention_from_no_state(q, k, v, chunks, weights, eps, product_map, padding).to(out_dtype)
        out, s, z = causal_attention(q, k, v, chunks, None, None, s, z, eps)
        out = out.to(out_dtype)
        if not return_state:
            return out
        states, sums = states_between(last_chunk(k, chunks), last_chunk(v, chunks), None, s, z)
        return out, LinearState(states[:, :, -1].contiguous(), sums[:, :, -1].contiguous())  # views would keep all states


def linear_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: LinearState | None,
    *,
    eps: float = 1e-6,
    in_place: bool = False,
    feature_map: FeatureMap | None = None,
) -> tuple[Tensor, LinearState]:
    """One more position of causal linear attention, in time and memory that don't depend on the prefix.

    Args:
        q: query `[B,H,D]`, already feature-mapped.
        k: key `[B,H,D]`, already feature-mapped.
        v: value `[B,H,M]`.
        state: of the positions before, or a plain tuple of its tensors; None = there are none.
        eps: added to the normaliser, not negative.
        in_place: write the new state over the given one, which saves the time to get new memory.
        feature_map: φ, to take of q and k first, which are then not yet feature-mapped; a kernel takes elu + 1 on the way.

    Returns:
        `[B,H,M]` in v's dtype, and the new state.

    Raises:
        ValueError: shapes, dtypes or devices that disagree; eps < 0.
        RuntimeError: in_place where gradients are taken.
    """
    check_step(q, k, v)
    eps = checked_eps(eps)
    if state is not None:
        state = checked_state(state, LinearState, k, v, feature_map)
    triple = None if state is None else (state.s, None, state.z)
    elsewhere = step_by_kernel(q, k, v, triple, momentum=None, eps=eps, in_place=in_place, feature_map=feature_map)
    if elsewhere is not None:
        out, (s, _, z) = elsewhere
        return out, LinearState(s, z)
    if feature_map is not None:
        q, k = feature_map(q), feature_map(k)
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v)
        if state is None:
            s, z = k.unsqueeze(-1) * v.unsqueeze(-2), k.clone()
        else:
            s, z = (x.to(v.dtype) for x in state)
            s = torch.addcmul(s, k.unsqueeze(-1), v.unsqueeze(-2), out=s if in_place else None)
            z = torch.add(z, k, out=z if in_place else None)
        return read_state(q, s, z, eps).to(out_dtype), LinearState(s, z)


def read_state(q: Tensor, s: Tensor, z: Tensor, eps: float) -> Tensor:
    """qᵀ s / (q·z + eps): `[B,H,D]`, `[B,H,D,M]`, `[B,H,D]` → `[B,H,M]`."""
    return (q.unsqueeze(-2) @ s).squeeze(-2) / ((q * z).sum(-1, keepdim=True) + eps)
