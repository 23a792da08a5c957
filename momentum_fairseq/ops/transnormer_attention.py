"""The two attentions of TransNormer (Qin et al., "The Devil in Linear Transformer", EMNLP 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops.causal_product import ProductState, causal_product
from momentum_fairseq.ops.checks import check_causal, check_shapes
from momentum_fairseq.ops.contraction_order import quadratic_order_is_cheaper, take_map
from momentum_fairseq.ops.feature_maps import FeatureMap
from momentum_fairseq.ops.key_value_cache import KeyValueCache
from momentum_fairseq.ops.precision import in_full_precision, no_autocast
from momentum_fairseq.ops.real_first import put_back, real_first, take


def norm_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    feature_map: FeatureMap | None = None,
) -> Tensor:
    """NormAttention: RMSNorm(q (kᵀ v)), without a denominator (section 4.1); not causal.

        RMSNorm(x) = gain x / √(mean(x²) + 1e-6)        over the M features of a head

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, already feature-mapped, and `[B,H,S,M]`.
        gain: `[H,M]`.
        key_padding_mask: bool `[B,S]`, True = padding.
        feature_map: φ, to take of q and k first, which are then not yet feature-mapped.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes that disagree.
    """
    check_shapes(q, k, v, key_padding_mask)
    q, k, product_map = take_map(feature_map, q, k, v)
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v, key_padding_mask)
        if product_map is not None:  # of padding φ isn't zero, but its values are
            return rms_norm(product_map.of_products(q @ k.transpose(-1, -2), q.shape[-1]) @ v, gain).to(out_dtype)
        if quadratic_order_is_cheaper(q.shape[2], k.shape[2], q.shape[3], v.shape[3]):
            return rms_norm((q @ k.transpose(-1, -2)) @ v, gain).to(out_dtype)
        return rms_norm(q @ (k.transpose(-1, -2) @ v), gain).to(out_dtype)


def causal_norm_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    state: ProductState | None = None,
) -> tuple[Tensor, ProductState]:
    """RMSNorm(q_iᵀ Σ_{j≤i} k_j v_jᵀ), in time and memory linear in N; arguments as in `norm_attention`, N = S,
    but q and k feature-mapped: the state that it leaves is of features.

    Args:
        state: of the positions before the first one; None = there are none.

    Returns:
        `[B,H,N,M]` in v's dtype, zeros where no real key was seen; and the state after the last key.

    Raises:
        ValueError: shapes that disagree, or N != S.
    """
    check_shapes(q, k, v, key_padding_mask)
    check_causal(q, k)
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v, key_padding_mask)
        out, state = causal_product(q, k, v, state)
        return rms_norm(out, gain).to(out_dtype), state


def remember_norm_attention(k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> ProductState:
    """Σ_j k_j v_jᵀ `[B,H,D,M]`, all that the queries of NormAttention read of a source."""
    with no_autocast(k):
        _, k, v = in_full_precision(k, k, v, key_padding_mask)
        return ProductState(k.transpose(-1, -2) @ v)


def read_norm_attention(q: Tensor, source: ProductState, gain: Tensor) -> Tensor:
    """Queries `[B,H,N,D]` of what `remember_norm_attention` gave → `[B,H,N,M]`, float32 or better."""
    with no_autocast(q):
        return rms_norm(q.to(source.s.dtype) @ source.s, gain)


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """x `[B,H,N,M]` over its root mean square, times the gain `[H,M]`."""
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain.to(x.dtype).unsqueeze(-2)


def diag_attention(
    q: Tensor, k: Tensor, v: Tensor, block: int, *, causal: bool = False, key_padding_mask: Tensor | None = None
) -> Tensor:
    """DiagAttention: softmax(q kᵀ / √D) v inside blocks that don't overlap (section 4.2).

    Blocks are counted from a sentence's first real position, so padding on either side changes nothing.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,N,D]`, `[B,H,N,M]` of the same positions, not feature-mapped.
        block: w, positions in a block.
        causal: read only the keys up to the query's own.
        key_padding_mask: bool `[B,N]`, True = padding, which must be finite.

    Returns:
        `[B,H,N,M]` in v's dtype, softmax in float32 or better; zeros at padding.

    Raises:
        ValueError: shapes that disagree, or N != S.
    """
    check_shapes(q, k, v, key_padding_mask)
    if q.shape[2] != k.shape[2]:
        raise ValueError(f"DiagAttention takes queries and keys of the same positions, got N = {q.shape[2]}, S = {k.shape[2]}")
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v, key_padding_mask)
        order = None if key_padding_mask is None else real_first(key_padding_mask)
        if order is not None:
            q, k, v = (take(x, order) for x in (q, k, v))
        real = None if order is None else ~key_padding_mask.gather(1, order)
        out = in_blocks(q, k, v, block, real, causal)
        return (out if order is None else put_back(out, order)).to(out_dtype)


def in_blocks(q: Tensor, k: Tensor, v: Tensor, block: int, real: Tensor | None, causal: bool) -> Tensor:
    """Softmax attention inside blocks; real: bool `[B,N]`, None = all."""
    batch, _, length, _ = q.shape
    blocks = -(-length // block)
    filling = blocks * block - length
    q, k, v = (F.pad(x, (0, 0, 0, filling)).unflatten(2, (blocks, block)) for x in (q, k, v))  # [B,H,C,w,D]
    if real is None:
        real = torch.ones(1, length, dtype=torch.bool, device=q.device)
    real = F.pad(real, (0, filling)).unflatten(1, (blocks, block))[:, None, :, :, None]  # [B,1,C,w,1]
    visible = real.transpose(-1, -2).expand(-1, -1, -1, block, -1)
    if causal:
        visible = visible & visible.new_ones(block, block).tril()
    # Itself too, or the row of a position that is padding would be 0/0.
    visible = visible | torch.eye(block, dtype=torch.bool, device=q.device)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    return torch.where(real, out, out.new_zeros(())).flatten(2, 3)[:, :, :length]


def diag_attention_step(
    q: Tensor, k: Tensor, v: Tensor, block: int, cache: KeyValueCache | None, *, key_padding_mask: Tensor | None = None
) -> tuple[Tensor, KeyValueCache]:
    """N more positions of causal DiagAttention, after those that a cache holds; the others as in `diag_attention`.

    Returns:
        `[B,H,N,M]` in v's dtype, and the cache with the new positions.
    """
    cache = (KeyValueCache.empty(k, v) if cache is None else cache).append(k, v, key_padding_mask)
    keys, values, padding = cache.held()
    queries, held = q.shape[2], keys.shape[2]
    real = torch.ones(1, held, dtype=torch.bool, device=q.device) if padding is None else ~padding
    number = (real.cumsum(1) - 1).div(block, rounding_mode="floor")  # which block a position is in, [B,S]
    visible = (number[:, -queries:, None] == number[:, None, :]) & real[:, None, :]
    visible &= visible.new_ones(queries, held).tril(held - queries)
    own = torch.eye(held, dtype=torch.bool, device=q.device)[-queries:]
    with no_autocast(q):
        q, keys, values = in_full_precision(q, keys, values)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=(visible | own).unsqueeze(1))
        return torch.where(real[:, None, -queries:, None], out, out.new_zeros(())).to(v.dtype), cache
