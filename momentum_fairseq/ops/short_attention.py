"""Linear attention of short sentences without gradients, in few operations: at batch 1 each one costs more than its products."""

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import checked_eps
from momentum_fairseq.ops.feature_maps import ProductMap
from momentum_fairseq.ops.zero_padding import zero_padding_


def short_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    *,
    key_padding_mask: Tensor | None,
    eps: float = 1e-6,
    product_map: ProductMap | None = None,
) -> Tensor:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps) through the scores, by operations in place.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, already feature-mapped, all float32 or all float64; v finite at padding.
        weights: `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`, on the numerator only; None = 1.
        key_padding_mask: bool `[B,S]`, True = padding.
        eps: added to the normaliser, not negative.
        product_map: φ of q and k that aren't feature-mapped yet.

    Returns:
        `[B,H,N,M]`; zeros where a row has no real key.

    Raises:
        ValueError: eps < 0.
    """
    eps = checked_eps(eps)
    (batch, heads, queries, dim), keys = q.shape, k.shape[2]
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # a product of four dimensions would copy them transposed
    # [B·H,S,N]: to sum over keys is then to add rows, four times as fast on a CPU.
    scores = torch.bmm(k, q.transpose(1, 2))
    by_head = scores.view(batch, heads, keys, queries)
    if product_map is not None:
        product_map.of_products(scores, dim, out=scores)
    if key_padding_mask is not None:
        zero_padding_(key_padding_mask[:, None, :, None], by_head)
    normaliser = scores.sum(1, keepdim=True).add_(eps)
    if weights is not None:
        by_head.mul_(weights.unsqueeze(-1))
    return torch.bmm(scores.div_(normaliser).transpose(1, 2), v).view(batch, heads, queries, v.shape[2])
