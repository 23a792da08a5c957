"""Linformer attention (Wang et al., "Linformer: Self-Attention with Linear Complexity", 2020)."""

from torch import Tensor

from momentum_fairseq.ops.checks import check_shapes
from momentum_fairseq.ops.precision import in_full_precision, no_autocast
from momentum_fairseq.ops.real_first import real_first, take
from momentum_fairseq.ops.softmax_attention import softmax_attention
from momentum_fairseq.ops.source_memory import KeysAndValues


def linformer_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_projection: Tensor,
    value_projection: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
) -> Tensor:
    """softmax(q (E k)ᵀ / √D) F v: keys and values are projected along the sequence to P positions (Eq. 7).

    The projections have a column for each position, and the positions of a sentence count from its first real key: padding on
    either side is left out of the sums and changes nothing.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, not feature-mapped.
        key_projection, value_projection: E and F, `[P,L]`, L >= S, shared by the heads.
        key_padding_mask: bool `[B,S]`, True = padding.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes that disagree, or more keys than the projections have columns.
    """
    check_shapes(q, k, v, key_padding_mask)
    source = project_positions(k, v, key_projection, value_projection, key_padding_mask)
    return read_projected_positions(q, source).to(v.dtype)


def project_positions(
    k: Tensor, v: Tensor, key_projection: Tensor, value_projection: Tensor, key_padding_mask: Tensor | None
) -> KeysAndValues:
    """E k `[B,H,P,D]` and F v `[B,H,P,M]`, float32 or better, without padding; arguments as in `linformer_attention`."""
    length, longest = k.shape[2], key_projection.shape[1]
    if length > longest:
        raise ValueError(f"linformer attention was built for at most {longest} keys and got {length}; raise the maximal length")
    with no_autocast(k):
        _, k, v = in_full_precision(k, k, v, key_padding_mask)
        if key_padding_mask is not None:
            order = real_first(key_padding_mask)
            k, v = take(k, order), take(v, order)
        keys, values = key_projection[:, :length].to(k.dtype) @ k, value_projection[:, :length].to(v.dtype) @ v
        return KeysAndValues(keys, values, None)


def read_projected_positions(q: Tensor, source: KeysAndValues) -> Tensor:
    """Queries `[B,H,N,D]` of what `project_positions` gave → `[B,H,N,M]`, float32 or better."""
    with no_autocast(q):
        return softmax_attention(q.to(source.k.dtype), source.k, source.v)
