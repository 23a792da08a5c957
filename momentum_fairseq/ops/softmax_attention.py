"""Softmax attention (Vaswani et al., "Attention Is All You Need", NeurIPS 2017), through torch's own kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops.checks import check_shapes


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D) v over the real keys; zeros where a row has none.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]` of one dtype, not feature-mapped.
        key_padding_mask: bool `[B,S]`, True = padding, which must be finite (0 · NaN is NaN).

    Returns:
        `[B,H,N,M]`.

    Raises:
        ValueError: shapes, dtypes or devices that disagree.
    """
    check_shapes(q, k, v, key_padding_mask)
    if key_padding_mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    real = ~key_padding_mask
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
    return out.masked_fill(~real.any(dim=1)[:, None, None, None], 0)


def causal_softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D) v over the real keys up to the query's own; zeros where there are none.

    The queries are the last N of the S positions: all of them in training, the new ones beside a key/value cache.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]` of one dtype, not feature-mapped, N <= S.
        key_padding_mask: bool `[B,S]`, True = padding, which must be finite (0 · NaN is NaN).

    Returns:
        `[B,H,N,M]`.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, or more queries than keys.
    """
    check_shapes(q, k, v, key_padding_mask)
    queries, keys = q.shape[2], k.shape[2]
    if queries > keys:
        raise ValueError(f"causal attention needs a key for each query, got N = {queries}, S = {keys}")
    if key_padding_mask is None and queries in (1, keys):
        return F.scaled_dot_product_attention(q, k, v, is_causal=queries > 1)
    visible = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril_(keys - queries)
    if key_padding_mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    visible = visible & ~key_padding_mask[:, None, None, :]  # [B,1,N,S]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    return out.masked_fill(~visible.any(dim=-1, keepdim=True), 0)
