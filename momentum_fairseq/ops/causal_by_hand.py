"""Causal attention whose weights are fixed: both passes written by hand, in place, in less time than a recorded graph's."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.causal_chunks import (
    RecentWeights,
    ScanWeights,
    StateWeights,
    causal_attention,
    chunked,
    outer,
    with_first,
)
from momentum_fairseq.ops.causal_rows import attend_in_rows, differentiate_in_rows
from momentum_fairseq.ops.feature_maps import ProductMap
from momentum_fairseq.ops.passes_by_hand import asks_for_recorded_gradients, recorded_gradients
from momentum_fairseq.ops.precision import no_autocast


class CausalWeights(NamedTuple):
    """What keys are weighted by where there is no state before the first one; all None = 1.

    Attributes:
        within: `[..,L,L]`, weight of key j in query i of the same chunk, read for j <= i.
        state: of the state between chunks, also where `recent` says the same; what is differentiated twice is weighted by these.
        scan: of chunks that are weighted alike, in all sentences and heads; of one matrix where `recent` is given.
        recent: what `state` comes to where only recent keys differ.
    """

    within: Tensor | None = None
    state: StateWeights | None = None
    scan: ScanWeights | None = None
    recent: RecentWeights | None = None


def causal_attention_from_no_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunks: int,
    weights: CausalWeights,
    eps: float,
    product_map: ProductMap | None,
    padding: Tensor | None,
) -> Tensor:
    """The output of `causal_attention` where there is no state before the first key: `[B,H,N,M]`; args as there."""
    empty = 0 in q.shape or 0 in v.shape
    transformed = torch._C._are_functorch_transforms_active()  # torch.func takes no pass written by hand
    if empty or transformed or any(x is not None and x.requires_grad for x in (weights.within, *(weights.state or ()))):
        return causal_attention(q, k, v, chunks, weights.within, weights.state, None, None, eps, product_map, padding)[0]
    return CausalAttention.apply(q, k, v, chunks, weights, eps, product_map, padding)


class CausalAttention(torch.autograd.Function):
    """`causal_attention_from_no_state`. What is differentiated more than once is recorded anew."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        chunks: int,
        weights: CausalWeights,
        eps: float,
        product_map: ProductMap | None,
        padding: Tensor | None,
    ) -> Tensor:
        """Arguments as of `causal_attention_from_no_state`."""
        if chunks == 1:
            out, *saved = attend_in_rows(q, k, v, weights.within, eps, product_map, padding)
        else:
            out, *saved = attend_in_chunks(q, k, v, chunks, weights, eps)
        ctx.save_for_backward(q, k, v, out, *saved)
        ctx.constants = chunks, weights, eps, product_map, padding
        return out

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        chunks, weights, eps, product_map, padding = ctx.constants
        with no_autocast(direction):
            if not torch.compiler.is_compiling() and asks_for_recorded_gradients(direction):
                settings = chunks, weights.within, weights.state, None, None, eps, product_map, padding
                gradients = recorded_gradients(
                    lambda q, k, v: causal_attention(q, k, v, *settings)[0],
                    (q, k, v),
                    ctx.needs_input_grad[:3],
                    [direction],
                )
            elif chunks == 1:
                gradients = differentiate_in_rows(direction, q, k, v, *saved, within=weights.within, product_map=product_map)
            else:
                gradients = differentiate_in_chunks(direction, q, k, v, *saved, weights=weights)
        return (*gradients, *[None] * 5)


def attend_in_chunks(q: Tensor, k: Tensor, v: Tensor, chunks: int, weights: CausalWeights, eps: float) -> tuple[Tensor, ...]:
    """All chunks at once: output, and what the other pass reads again."""
    within, state, scan, recent = weights
    state = state if recent is None else None
    length = v.shape[2]
    q, k, v = (chunked(x, chunks) for x in (q, k, v))  # [B,H,C,L,D]
    lead = q.shape[:3]
    reading, writing = (q, k) if state is None else (with_first(q, state.queries), outer(k, state.keys))
    q, k, v, reading, writing = (x.flatten(0, 2) for x in (q, k, v, reading, writing))
    scores = torch.bmm(q, k.transpose(1, 2)).tril_()
    normaliser = scores.sum(-1, keepdim=True)
    if within is not None:
        scores.unflatten(0, lead).mul_(within)
    sums = entering(k.sum(1).unflatten(0, lead)).flatten(0, 2).unsqueeze(1)
    normaliser.add_(torch.linalg.vecdot(q, sums).unsqueeze(-1)).add_(eps)  # half as long as a product with one column
    states = torch.bmm(writing.transpose(1, 2), v).unflatten(0, lead)
    states = carried(states, state, scan).flatten(0, 2)
    out = torch.bmm(scores, v).baddbmm_(reading, states, alpha=1 if recent is None else recent.steady)
    earlier = None
    if recent is not None and recent.before is not None:
        size = len(recent.before)
        earlier = across(q[1:, :size], k[:-1, -size:].transpose(1, 2), chunks).mul_(recent.before)
        out[1:, :size] += across(earlier, v[:-1, -size:], chunks)
    out = cut(out.div_(normaliser), lead, length)
    return out, scores, normaliser, states, sums, reading, writing, earlier


def differentiate_in_chunks(
    direction: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    scores: Tensor,
    normaliser: Tensor,
    states: Tensor,
    sums: Tensor,
    reading: Tensor,
    writing: Tensor,
    earlier: Tensor | None,
    *,
    weights: CausalWeights,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    within, state, scan, recent = weights
    state = state if recent is None else None
    length, dim = q.shape[2:]
    chunks = normaliser.shape[0] // (q.shape[0] * q.shape[1])
    of_normaliser = chunked((direction * out).sum(-1, keepdim=True), chunks)
    lead = of_normaliser.shape[:3]
    of_normaliser = of_normaliser.flatten(0, 2).div(normaliser).neg_()
    q, k, v, direction = (chunked(x, chunks).flatten(0, 2) for x in (q, k, v, direction))
    direction = direction / normaliser

    of_scores = torch.bmm(direction, v.transpose(1, 2))
    if within is not None:
        of_scores.unflatten(0, lead).mul_(within)
    of_scores.add_(of_normaliser).tril_()
    of_q, of_k = torch.bmm(of_scores, k), torch.bmm(of_scores.transpose(1, 2), q)
    of_v = torch.bmm(scores.transpose(1, 2), direction)

    of_q.addcmul_(of_normaliser, sums)
    of_sums = torch.bmm(of_normaliser.transpose(1, 2), q).unflatten(0, lead).squeeze(3)
    of_k += entering(of_sums, backwards=True).flatten(0, 2).unsqueeze(1)
    of_states = torch.bmm(reading.transpose(1, 2), direction).unflatten(0, lead)
    of_states = carried(of_states, state, scan, backwards=True).flatten(0, 2)
    steady = 1 if recent is None else recent.steady
    of_v.baddbmm_(writing, of_states, alpha=steady)
    read = [direction] if state is None else [direction, *times(direction, state.queries, lead)]
    written = [v] if state is None else times(v, state.keys, lead)
    for i, (x, y) in enumerate(zip(read, written, strict=True)):
        matrix = slice(i * dim, (i + 1) * dim)
        of_q.baddbmm_(x, states[:, matrix].transpose(1, 2), alpha=steady)
        of_k.baddbmm_(y, of_states[:, matrix].transpose(1, 2), alpha=steady)
    if earlier is not None:
        size = len(recent.before)
        of_earlier = across(direction[1:, :size], v[:-1, -size:].transpose(1, 2), chunks).mul_(recent.before)
        of_q[1:, :size] += across(of_earlier, k[:-1, -size:], chunks)
        of_k[:-1, -size:] += across(of_earlier.transpose(1, 2), q[1:, :size], chunks)
        of_v[:-1, -size:] += across(earlier.transpose(1, 2), direction[1:, :size], chunks)
    return tuple(cut(x, lead, length) for x in (of_q, of_k, of_v))


def across(x: Tensor, y: Tensor, chunks: int) -> Tensor:
    """Products of what two successive chunks hold `[B·H·C-1,..]`, zeros between two heads, whatever they hold."""
    products = torch.bmm(x, y)
    products[chunks - 1 :: chunks] = 0
    return products


def entering(sums: Tensor, *, backwards: bool = False) -> Tensor:
    """What each chunk `[B,H,C,D]` adds → what all chunks before it add; backwards, all after it."""
    if backwards:
        return entering(sums.flip(2)).flip(2)
    return torch.cat([torch.zeros_like(sums[:, :, :1]), sums[:, :, :-1].cumsum(2)], dim=2)


def carried(own: Tensor, weights: StateWeights | None, scan: ScanWeights | None, *, backwards: bool = False) -> Tensor:
    """What each chunk adds to R matrices of state `[B,H,C,R·D,M]` → the state that enters it; backwards, the gradients."""
    states = torch.empty_like(own)
    states[:, :, -1 if backwards else 0] = 0
    own, found = (own[:, :, 1:], states[:, :, :-1]) if backwards else (own[:, :, :-1], states[:, :, 1:])
    if scan is not None:
        carry_by_groups(own.flatten(0, 1), found.flatten(0, 1), scan, backwards)
    else:
        carry_by_chunks(own, found, weights.gain, backwards)
    return states


def carry_by_chunks(own: Tensor, found: Tensor, gain: Tensor, backwards: bool) -> None:
    """Into `found` `[B,H,C,R·D,M]` the state after each chunk; backwards, its gradient."""
    chunks, matrices = own.shape[2], gain.shape[-1]
    own, found = (x.unflatten(3, (matrices, -1)) for x in (own, found))
    gain = gain[..., -1, None, None].expand(-1, -1, chunks + 1, -1, -1, -1)  # they gain from the last matrix only
    order = range(chunks - 1, -1, -1) if backwards else range(chunks)
    entered = None
    for chunk in order:
        found[:, :, chunk] = own[:, :, chunk]
        if entered is not None:
            found[:, :, chunk] += entered
            change = gain[:, :, chunk + 1 if backwards else chunk]
            if backwards:
                found[:, :, chunk, -1] += (entered * change).sum(2)
            else:
                found[:, :, chunk] += entered[:, :, -1:] * change
        entered = found[:, :, chunk]


def carry_by_groups(own: Tensor, found: Tensor, scan: ScanWeights, backwards: bool) -> None:
    """As `carry_by_chunks`, `[G,C,R·D,M]`: a product for many chunks; one by one they would take as long as all else."""
    group, matrices = scan.within.shape[:2]
    own, found = (x.unflatten(2, (matrices, -1)).flatten(3) for x in (own, found))  # [G,C,R,D·M]
    chunks = own.shape[1]
    starts = range(0, chunks, group)
    for start in reversed(starts) if backwards else starts:
        part = slice(start, min(start + group, chunks))
        size = part.stop - start
        within = scan.within[:size, :, :size].reshape(size * matrices, -1)
        total = (within.t() if backwards else within) @ own[:, part].flatten(1, 2)
        before = part.stop if backwards else start - 1
        if 0 <= before < chunks:
            entered = found[:, before]
            if scan.gain is not None:
                gain = scan.gain[:size].flip(0).transpose(1, 2) if backwards else scan.gain[:size]
                total += gain.reshape(size * matrices, -1) @ entered
            total.unflatten(1, (size, matrices)).add_(entered.unsqueeze(1))
        found[:, part] = total.unflatten(1, (size, matrices))


def times(x: Tensor, weights: Tensor, lead: tuple[int, int, int]) -> list[Tensor]:
    """x `[B·H·C,L,D]` times each of the weights `[..,L,R]`."""
    x = x.unflatten(0, lead)
    return [(x * weight).flatten(0, 2) for weight in weights.unsqueeze(-1).unbind(-2)]


def cut(x: Tensor, lead: tuple[int, int, int], length: int) -> Tensor:
    """`[B·H·C,L,D]` → `[B,H,N,D]`."""
    return x.unflatten(0, lead).flatten(2, 3)[:, :, :length]
