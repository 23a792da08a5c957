"""Causal attention in linear time and memory: what keys of the same chunk add, and what the state brings from before."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops.feature_maps import ProductMap
from momentum_fairseq.ops.kept import kept

# On a CPU 64 is quicker than 32 and 128 at D = 32; at 64 and 139 they differ by little.
CHUNK = 64

# Chunks that one product carries the state over: it grows with the square of their number.
GROUP = 16


class StateWeights(NamedTuple):
    """What a recurrence multiplies its state by, which is R matrices of keys times values.

    The leading axes broadcast to `[B,H,C]`. A key's weights are finite even where it is padding.

    Attributes:
        queries: `[..,L,R-1]`, query i on the state that enters its chunk; the first matrix is read as it is.
        keys: `[..,L,R]`, key j in the state that leaves its chunk.
        gain: `[..,R,R]`, the state that enters a chunk in what the state gains over it, zeros but in the last column; not the
            whole factor, which is this plus one, since a rounded factor near one would be wrong to the same side each time.
    """

    queries: Tensor
    keys: Tensor
    gain: Tensor


class ScanWeights(NamedTuple):
    """What R matrices of state become over several chunks that are weighted alike.

    Attributes:
        within: `[G,R,G,R]`, what chunk j of a group of G adds to one of the matrices, in each of them after chunk i.
        gain: `[G,R,R]`, the matrices that enter a group in what they gain up to chunk i, as `StateWeights.gain`; None = 0.
    """

    within: Tensor
    gain: Tensor | None


class RecentWeights(NamedTuple):
    """Weights of a recurrence that are the same for all keys but recent ones: then one matrix of state does.

    Attributes:
        steady: the weight of what an earlier chunk holds.
        before: `[S,S]`, added to it for the last S keys of a chunk in the first S queries of the next; None = 0.
    """

    steady: float
    before: Tensor | None


def number_of_chunks(length: int, key_dim: int, value_dim: int, matrices: int) -> int:
    """1 where half the square of scores costs no more multiplications than chunks and a state of R matrices between them.

    A position takes N (D+M) / 2 for its half of the square; or CHUNK (D+M) for all of its chunk's, and 2 R D M for the state.
    """
    dims = key_dim + value_dim
    if 0 in (key_dim, value_dim) or length * dims <= 2 * CHUNK * dims + 4 * matrices * key_dim * value_dim:
        return 1
    return -(-length // CHUNK)


def chunk_length(length: int, chunks: int) -> int:
    """The least number of positions a chunk that covers the sequence, and 1 for an empty one."""
    return max(1, -(-length // chunks))


def chunked(x: Tensor, chunks: int) -> Tensor:
    """`[B,H,N,D]` → `[B,H,C,L,D]`, the last chunk filled up with zeros."""
    length = x.shape[2]
    size = chunk_length(length, chunks)
    x = x if chunks * size == length else F.pad(x, (0, 0, 0, chunks * size - length))
    return x.unflatten(2, (chunks, size))


def last_chunk(x: Tensor, chunks: int) -> Tensor:
    """`[B,H,N,D]` → `[B,H,1,L',D]`, the last chunk without what fills it up."""
    length = x.shape[2]
    return x[:, :, None, (chunks - 1) * chunk_length(length, chunks) :]


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunks: int,
    within: Tensor | None,
    weights: StateWeights | None,
    initial: Tensor | None,
    z: Tensor | None,
    eps: float,
    product_map: ProductMap | None = None,
    padding: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Numerator over normaliser of every query, from the keys up to its own; padding keys and values are zeros.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,N,D]`, `[B,H,N,M]`.
        chunks: how many the sequence is cut into, see `number_of_chunks`.
        within: `[..,L,L]`, weight of key j in query i of the same chunk, read for j <= i; None = 1.
        weights: None = 1 everywhere, and R = 1.
        initial: state before the first key, `[B,H,R·D,M]`; None = zeros.
        z: sum of the keys before the first, `[B,H,D]`; None = zeros.
        eps: added to the normaliser.
        product_map: φ of q and k that aren't feature-mapped yet, of one chunk from no state on.
        padding: bool `[B,1,N,1]`, read with a map alone: of keys that are zeros φ is not.

    Returns:
        `[B,H,N,M]`, and state and key sum where the last chunk begins, None where they are zeros.
    """
    length = q.shape[2]
    q, k, v = (chunked(x, chunks) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2)  # [B,H,C,L,L]
    if product_map is not None:
        scores = product_map.of_products(scores, q.shape[-1])
        scores = scores if padding is None else scores.masked_fill(chunked(padding, chunks).transpose(-1, -2), 0)
    scores.tril_()
    normaliser = scores.sum(-1, keepdim=True)
    if within is not None:
        scores = scores * within if torch.is_grad_enabled() else scores.mul_(within)
    numerator = scores @ v
    if chunks > 1 or initial is not None:
        states, sums = states_between(k[:, :, :-1], v[:, :, :-1], weights, initial, z)
        numerator = numerator + (q if weights is None else with_first(q, weights.queries)) @ states
        normaliser = normaliser + (q * sums.unsqueeze(-2)).sum(-1, keepdim=True)
        initial, z = states[:, :, -1], sums[:, :, -1]
    numerator, normaliser = (x.flatten(2, 3)[:, :, :length] for x in (numerator, normaliser))
    return numerator / (normaliser + eps), initial, z


def states_between(
    k: Tensor, v: Tensor, weights: StateWeights | None, initial: Tensor | None, z: Tensor | None
) -> tuple[Tensor, Tensor]:
    """State `[B,H,C+1,R·D,M]` and key sum `[B,H,C+1,D]` before the C chunks of k and v, between them, and after.

    A loop over the chunks: from 32 on it is quicker than one product with all weights from chunk to chunk, which grows with
    their square, and hardly slower before.
    """
    batch, heads, chunks, _, dim = k.shape
    sums = F.pad(k.sum(-2).cumsum(2), (0, 0, 1, 0))
    sums = sums if z is None else sums + z.unsqueeze(2)
    rows, width = 1, dim * v.shape[-1]
    if weights is not None:
        k, rows = outer(k, over_chunks(weights.keys, chunks)), weights.keys.shape[-1]
    own = (k.transpose(-1, -2) @ v).reshape(batch * heads, chunks, rows, width)
    state = own.new_zeros(batch * heads, rows, width) if initial is None else initial.reshape(batch * heads, rows, width)
    states = [state]
    if weights is None:
        for added in own.unbind(1):
            states.append(states[-1] + added)
    else:
        gains = over_chunks(weights.gain, chunks).expand(batch, heads, -1, -1, -1).flatten(0, 1)
        for added, gain in zip(own.unbind(1), gains.unbind(1), strict=True):
            states.append(torch.baddbmm(states[-1] + added, gain, states[-1]))
    return torch.stack(states, dim=1).reshape(batch, heads, chunks + 1, k.shape[-1], v.shape[-1]), sums


def over_chunks(weights: Tensor, chunks: int) -> Tensor:
    """Weights `[..,C',.,.]` of all chunks or of each (C' = 1) → `[..,C,.,.]`, of the first C."""
    return (weights if weights.shape[2] > 1 else weights.expand(-1, -1, chunks, -1, -1))[:, :, :chunks]


def outer(x: Tensor, weights: Tensor) -> Tensor:
    """`[..,L,D]` and `[..,L,R]` → `[..,L,R·D]`."""
    return (weights.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)


def with_first(x: Tensor, weights: Tensor) -> Tensor:
    """`[B,H,C,L,D]`, and it times each of R − 1 weights `[..,L,R-1]` → `[B,H,C,L,R·D]`."""
    return torch.cat([x, outer(x, weights)], dim=-1)


@kept
def plain_scan(dtype: torch.dtype, device: torch.device) -> ScanWeights:
    """Of one matrix to which every chunk adds."""
    return ScanWeights(torch.ones(GROUP, GROUP, dtype=dtype, device=device).tril_().reshape(GROUP, 1, GROUP, 1), None)
