"""The oracle: momentum attention as the recurrence of Nguyen et al., MSML 2022, Eq. 12. All else is held to it."""

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import check_causal, check_momentum, check_shapes, checked_eps


def recurrent_momentum_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: float | Tensor,
    step_size: float | Tensor,
    key_padding_mask: Tensor | None = None,
    eps: float = 1e-6,
    causal: bool = True,
) -> Tensor:
    """Heavy-ball attention, one key at a time (Nguyen et al. 2022, Eq. 12).

        m_i = β m_{i-1} − k_i v_iᵀ        s_i = s_{i-1} − γ m_i        z_i = z_{i-1} + k_i
        o_i = q_iᵀ s_i / (q_iᵀ z_i + eps)        m_0 = s_0 = z_0 = 0

    Slow on purpose, summed in float32 at least. A padding key is no key: the state passes it unchanged.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
        k: keys `[B,H,S,D]`, already feature-mapped.
        v: values `[B,H,S,M]`.
        momentum: β in [0, 1), or a tensor `[H]`.
        step_size: γ > 0, or a tensor `[H]`.
        key_padding_mask: bool `[B,S]`, True = padding.
        eps: added to the normaliser, not negative.
        causal: query i reads the state after key i (Eq. 12, 13); if False all read the last state (Eq. 14).

    Returns:
        `[B,H,N,M]` in v's dtype; zeros where no real key was seen.

    Raises:
        ValueError: shapes that disagree, β, γ or eps out of range, or causal with N != S.
    """
    check_shapes(q, k, v, key_padding_mask)
    check_momentum(momentum, step_size, q.shape[1])
    eps = checked_eps(eps)
    if causal:
        check_causal(q, k)
    (batch, heads, queries, dim), keys = q.shape, k.shape[2]
    out_dtype, dtype = v.dtype, torch.promote_types(torch.promote_types(q.dtype, v.dtype), torch.float32)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    beta = torch.as_tensor(momentum, dtype=v.dtype, device=v.device).reshape(-1, 1, 1)
    gamma = torch.as_tensor(step_size, dtype=v.dtype, device=v.device).reshape(-1, 1, 1)
    m = s = v.new_zeros(batch, heads, dim, v.shape[3])
    z = v.new_zeros(batch, heads, dim)
    states = []
    for i in range(keys):
        next_m = beta * m - k[:, :, i, :, None] * v[:, :, i, None, :]
        next_s = s - gamma * next_m
        next_z = z + k[:, :, i]
        if key_padding_mask is not None:
            padding = key_padding_mask[:, i].reshape(batch, 1, 1, 1)
            next_m, next_s = torch.where(padding, m, next_m), torch.where(padding, s, next_s)
            next_z = torch.where(padding.squeeze(-1), z, next_z)
        m, s, z = next_m, next_s, next_z
        states.append((s, z))
    rows = []
    for i in range(queries):
        s_i, z_i = states[i] if causal else (s, z)
        numerator = torch.einsum("bhd,bhdm->bhm", q[:, :, i], s_i)
        denominator = torch.einsum("bhd,bhd->bh", q[:, :, i], z_i) + eps
        rows.append(numerator / denominator.unsqueeze(-1))
    return (torch.stack(rows, dim=2) if rows else v.new_zeros(batch, heads, 0, v.shape[3])).to(out_dtype)
