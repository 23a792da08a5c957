"""Linear attention (Katharopoulos et al., "Transformers are RNNs", ICML 2020), and the contraction that momentum attention shares."""

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import check_shapes


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """Σ_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps) over the real keys, not causal.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        k: keys `[B,H,S,D]`, already feature-mapped.
        v: values `[B,H,S,M]`.
        key_padding_mask: bool `[B,S]`, True = padding.
        eps: added to the normaliser.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes that disagree.
    """
    check_shapes(q, k, v, key_padding_mask)
    return weighted_linear_attention(q, k, v, None, key_padding_mask, eps)


def quadratic_order_is_cheaper(queries: int, keys: int, key_dim: int, value_dim: int) -> bool:
    """Whether (q kᵀ) v costs fewer multiplications than q (kᵀ v): N·S·(D+M) < (N+S)·D·M."""
    return queries * keys * (key_dim + value_dim) < (queries + keys) * key_dim * value_dim


def weighted_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, key_padding_mask: Tensor | None, eps: float
) -> Tensor:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps), contracted in the cheaper order.

    The weights `[S]`, `[B,1,S]` or `[B,H,S]` touch the numerator only; padding is in neither sum. The normaliser is one more
    column of the product.
    """
    out_dtype = v.dtype
    dtype = torch.promote_types(torch.promote_types(q.dtype, v.dtype), torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
        if weights is not None:
            v = v * weights.to(dtype).unsqueeze(-1)
        if quadratic_order_is_cheaper(q.shape[2], k.shape[2], q.shape[3], v.shape[3]):
            scores = q @ k.transpose(-1, -2)
            numerator, denominator = scores @ v, scores.sum(-1, keepdim=True)
        else:
            numerator = q @ (k.transpose(-1, -2) @ v)
            denominator = q @ k.sum(-2).unsqueeze(-1)
        return (numerator / (denominator + eps)).to(out_dtype)
