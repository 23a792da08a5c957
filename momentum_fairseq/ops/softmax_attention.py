"""Softmax attention (Vaswani et al., "Attention Is All You Need", NeurIPS 2017), through torch's own kernels."""

import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops.checks import check_shapes


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D) v over the real keys; zeros where a row has none.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, not feature-mapped.
        key_padding_mask: bool `[B,S]`, True = padding, which must be finite (0 · NaN is NaN).

    Returns:
        `[B,H,N,M]`.

    Raises:
        ValueError: shapes that disagree.
    """
    check_shapes(q, k, v, key_padding_mask)
    if key_padding_mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    real = ~key_padding_mask
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
    return out.masked_fill(~real.any(dim=1)[:, None, None, None], 0)
