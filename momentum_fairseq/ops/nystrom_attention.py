"""Nyström attention (Xiong et al., "Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention", AAAI 2021)."""

import math

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import check_shapes
from momentum_fairseq.ops.precision import in_full_precision, no_autocast
from momentum_fairseq.ops.real_first import real_counts
from momentum_fairseq.ops.softmax_attention import softmax_attention
from momentum_fairseq.ops.source_memory import KeysAndValues

ITERATIONS = 6


def nystrom_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    landmarks: int,
    *,
    self_attention: bool,
    key_padding_mask: Tensor | None = None,
    iterations: int = ITERATIONS,
) -> Tensor:
    """softmax(q k̃ᵀ/√D) softmax(q̃ k̃ᵀ/√D)⁺ softmax(q̃ kᵀ/√D) v with landmarks q̃, k̃, the means of segments (Eq. 13–14).

    A sentence's real positions are cut into segments of lengths that differ by one at most; one shorter than the number of
    landmarks has as many as it has positions. Neither padding nor batch mates change anything.

    Where queries are of another sequence than keys, the landmarks of the keys stand for those of the queries too, q̃ = k̃: a query
    then reads nothing of other queries. With a landmark for each key this is softmax attention.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, not feature-mapped.
        landmarks: m, the number of segments.
        self_attention: queries and keys are of the same positions; `key_padding_mask` is then the queries' too.
        key_padding_mask: bool `[B,S]`, True = padding, which may hold anything.
        iterations: of the pseudo-inverse.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes that disagree, or self-attention with N != S.
    """
    check_shapes(q, k, v, key_padding_mask)
    if self_attention and q.shape[2] != k.shape[2]:
        raise ValueError(f"self-attention takes queries and keys of the same positions, got N = {q.shape[2]}, S = {k.shape[2]}")
    with no_autocast(q):
        queries = q if self_attention else None
        source = nystrom_source(k, v, landmarks, key_padding_mask, queries=queries, iterations=iterations)
        return read_landmarks(q, source).to(v.dtype)


def nystrom_source(
    k: Tensor,
    v: Tensor,
    landmarks: int,
    key_padding_mask: Tensor | None,
    *,
    queries: Tensor | None = None,
    iterations: int = ITERATIONS,
) -> KeysAndValues:
    """What queries read: k̃ `[B,H,m,D]`, softmax(q̃ k̃ᵀ/√D)⁺ softmax(q̃ kᵀ/√D) v `[B,H,m,M]`, and the unused landmarks bool `[B,m]`.

    Args:
        queries: `[B,H,S,D]`, of the same positions as the keys; None = the landmarks of the keys stand for theirs.
    """
    with no_autocast(k):
        _, keys, values = in_full_precision(k, k, v, key_padding_mask)
        means, unused = segment_means(key_padding_mask, keys, landmarks)
        key_landmarks = means @ keys
        query_landmarks = key_landmarks
        if queries is not None:
            _, queries, _ = in_full_precision(queries, queries, v, key_padding_mask)
            query_landmarks = means @ queries
        kernel = landmark_kernel(query_landmarks, key_landmarks, unused)
        read = softmax_attention(query_landmarks, keys, values, key_padding_mask=key_padding_mask)
        return KeysAndValues(key_landmarks, iterative_pseudo_inverse(kernel, iterations) @ read, unused)


def read_landmarks(q: Tensor, source: KeysAndValues) -> Tensor:
    """Queries `[B,H,N,D]` of what `nystrom_source` gave → `[B,H,N,M]`, float32 or better."""
    with no_autocast(q):
        return softmax_attention(q.to(source.v.dtype), source.k, source.v, key_padding_mask=source.padding)


def segment_means(key_padding_mask: Tensor | None, x: Tensor, landmarks: int) -> tuple[Tensor, Tensor | None]:
    """The matrix that takes the mean of each segment of real positions of x `[B,H,S,D]`, and which segments there aren't.

    Returns:
        `[B,1,m,S]` (or `[1,1,m,S]`, where there is no padding) and bool `[B,m]`, None where all are used.
    """
    length, segment = x.shape[2], torch.arange(landmarks, device=x.device)
    if key_padding_mask is None and length >= landmarks:
        # Not torch.tensor, which would copy the number from the host and wait for that.
        position, count = torch.arange(length, device=x.device).unsqueeze(0), torch.full((1,), length, device=x.device)
        real, unused = torch.ones_like(position, dtype=torch.bool), None
    else:
        count = real_counts(key_padding_mask, x)
        real = torch.arange(length, device=x.device) < count.unsqueeze(1) if key_padding_mask is None else ~key_padding_mask
        position = real.cumsum(1) - 1  # [B,S]
        unused = segment >= count.unsqueeze(1)
    used = count.clamp(min=1, max=landmarks).unsqueeze(1)
    own = position * used // count.clamp(min=1).unsqueeze(1)
    member = ((own.unsqueeze(1) == segment[:, None]) & real.unsqueeze(1)).to(x.dtype)  # [B,m,S]
    return (member / member.sum(-1, keepdim=True).clamp(min=1)).unsqueeze(1), unused


def landmark_kernel(query_landmarks: Tensor, key_landmarks: Tensor, unused: Tensor | None) -> Tensor:
    """softmax(q̃ k̃ᵀ/√D) `[B,H,m,m]` over the used landmarks, and ones on the diagonal for the others.

    A block of its own changes neither the inverse of the rest nor the norms that its iteration starts from.
    """
    scores = query_landmarks @ key_landmarks.transpose(-1, -2) / math.sqrt(key_landmarks.shape[-1])
    if unused is None:
        return scores.softmax(-1)
    identity = torch.eye(scores.shape[-1], dtype=scores.dtype, device=scores.device)
    kernel = scores.masked_fill(unused[:, None, None, :], torch.finfo(scores.dtype).min).softmax(-1)
    return torch.where(unused[:, None, :, None], identity, kernel)


def iterative_pseudo_inverse(kernel: Tensor, iterations: int) -> Tensor:
    """Z ← Z (13 I − K Z (15 I − K Z (7 I − K Z))) / 4 from Z = Kᵀ / (‖K‖₁ ‖K‖_∞), for each matrix by itself (Eq. 11).

    The published code starts from the largest norms over the whole batch, which makes a sentence's output depend on its batch
    mates.
    """
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    norms = kernel.abs().sum(-2).amax(-1) * kernel.abs().sum(-1).amax(-1)
    inverse = kernel.transpose(-1, -2) / norms[..., None, None]
    for _ in range(iterations):
        product = kernel @ inverse
        inverse = inverse @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product))) / 4
    return inverse
