"""Momentum attention: linear attention with a heavy ball (Nguyen et al., "Momentum Transformer", MSML 2022)."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import check_momentum, check_shapes
from momentum_fairseq.ops.linear_attention import weighted_linear_attention


def momentum_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Every query reads the last state of the heavy-ball recurrence (Nguyen et al. 2022, Eq. 14).

        o_i = Σ_j γ w_{N−j} (q_i·k_j) v_j / (Σ_j q_i·k_j + eps)        w_d = (1 − β^{d+1}) / (1 − β)

    N is the sentence's own number of real keys, so neither padding nor batch mates change a row.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        k: keys `[B,H,S,D]`, already feature-mapped.
        v: values `[B,H,S,M]`.
        momentum: β in [0, 1), or a tensor `[H]`, one a head.
        step_size: γ > 0, or a tensor `[H]`.
        key_padding_mask: bool `[B,S]`, True = padding, on either side.
        eps: added to the normaliser.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes that disagree; a number β outside [0, 1) or γ <= 0.
    """
    check_shapes(q, k, v, key_padding_mask)
    check_momentum(momentum, step_size, q.shape[1])
    dtype = torch.promote_types(v.dtype, torch.float32)
    weights = momentum_weights(k.shape[2], momentum, step_size, key_padding_mask, dtype=dtype, device=v.device)
    return weighted_linear_attention(q, k, v, weights, key_padding_mask, eps)


def momentum_weights(
    keys: int,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """γ (1 − β^c) / (1 − β) for each key, c being the number of real keys at its position and after (Eq. 14).

    1 − β^c is computed as −expm1(c log β), which loses no digits as β → 1. Padding gets a finite weight that nobody reads.

    Returns:
        `[S]`, or `[B,1,S]` with a mask; `[H,S]` or `[B,H,S]` with one momentum or step size a head.
    """
    if key_padding_mask is None and not isinstance(momentum, Tensor) and not isinstance(step_size, Tensor):
        return fixed_weights(keys, momentum, step_size, dtype, device)
    if key_padding_mask is None:
        count = torch.arange(keys, 0, -1, dtype=dtype, device=device)
    else:
        real = ~key_padding_mask
        seen = real.cumsum(-1)
        count = (seen[:, -1:] - seen + real).clamp(min=1).to(dtype).unsqueeze(1)
    return weights_of_counts(count, momentum, step_size)


@lru_cache(maxsize=64)
def fixed_weights(keys: int, momentum: float, step_size: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights `[S]` without padding and with fixed numbers, kept: at batch 1 they would cost as much as a product."""
    with torch.inference_mode(False):  # a tensor kept from decoding may serve a training
        return weights_of_counts(torch.arange(keys, 0, -1, dtype=dtype, device=device), momentum, step_size)


def weights_of_counts(count: Tensor, momentum: float | Tensor, step_size: float | Tensor) -> Tensor:
    """γ (1 − β^c) / (1 − β) for counts c >= 1 of any shape `[..., S]`; `[..., H, S]` with one momentum or step size a head."""
    if isinstance(momentum, Tensor):
        momentum = momentum.to(count.dtype).unsqueeze(-1)
        # Two forms, for the gradients: the first keeps its digits down to 0, the second up to 1.
        below = 1 - momentum.pow(count)
        above = -torch.expm1(count * momentum.clamp(min=0.5).log())
        weights = torch.where(momentum < 0.5, below, above) / (1 - momentum)
    elif momentum == 0:
        weights = torch.ones_like(count)
    else:
        weights = torch.expm1(count * math.log(momentum)) / (momentum - 1)
    return weights * (step_size.to(count.dtype).unsqueeze(-1) if isinstance(step_size, Tensor) else step_size)
