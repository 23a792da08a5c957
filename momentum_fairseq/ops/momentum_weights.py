"""The weights of momentum attention (Nguyen et al., "Momentum Transformer", MSML 2022): of keys, and of states between chunks."""

import math

import torch
from torch import Tensor

from momentum_fairseq.ops.causal_chunks import GROUP, RecentWeights, ScanWeights, StateWeights
from momentum_fairseq.ops.kept import kept


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
    if key_padding_mask is None:
        return unpadded_weights(keys, momentum, step_size, dtype, device)
    count = (~key_padding_mask).flip(-1).cumsum(-1).flip(-1)
    if isinstance(momentum, Tensor) or isinstance(step_size, Tensor):
        return weights_of_counts(count.to(dtype).unsqueeze(1), momentum, step_size)
    return weights_by_count(keys, momentum, step_size, dtype, device)[count].unsqueeze(1)


@kept
def unpadded_weights(
    keys: int, momentum: float | Tensor, step_size: float | Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The weights without padding."""
    return weights_of_counts(torch.arange(keys, 0, -1, dtype=dtype, device=device), momentum, step_size)


@kept
def weights_by_count(keys: int, momentum: float, step_size: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights of the counts 0 … S, `[S+1]`."""
    return weights_of_counts(torch.arange(keys + 1, dtype=dtype, device=device), momentum, step_size)


def weights_of_counts(count: Tensor, momentum: float | Tensor, step_size: float | Tensor) -> Tensor:
    """γ (1 − β^c) / (1 − β) for counts c >= 0 of any shape `[..., S]`; `[..., H, S]` with one momentum or step size a head."""
    if isinstance(momentum, Tensor):
        momentum = momentum.to(count.dtype).unsqueeze(-1)
        # Two forms, for the gradients: the first keeps its digits down to 0, the second up to 1.
        below = 1 - power(momentum, count)
        above = -torch.expm1(count * momentum.clamp(min=0.5).log())
        weights = torch.where(momentum < 0.5, below, above) / (1 - momentum)
    elif momentum == 0:
        weights = count.clamp(max=1)
    else:
        weights = torch.expm1(count * math.log(momentum)) / (momentum - 1)
    return weights * (step_size.to(count.dtype).unsqueeze(-1) if isinstance(step_size, Tensor) else step_size)


def power(momentum: float | Tensor, count: Tensor) -> Tensor:
    """β^c. Of 0^0 torch's own second derivative is NaN."""
    return torch.where(count == 0, 1, momentum ** count.clamp(min=1))


@kept
def weights_within(
    size: int,
    real: Tensor | None,
    momentum: float | Tensor,
    step_size: float | Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """γ w_{r−j} of key j in query r of the same chunk of `size` positions, `[..,L,L]`; zeros for j > r.

    Args:
        real: bool `[B,1,C,L,1]`, False = padding, which doesn't count; None = no padding.
    """
    rank, _ = count_keys(size, real, device)
    distance = (rank.unsqueeze(-1) - rank.unsqueeze(-2)).clamp(min=0)
    return look_up(growth_by_count(size, momentum, step_size, device).to(dtype), distance + 1).tril_()


@kept
def state_weights(
    size: int,
    real: Tensor | None,
    momentum: float | Tensor,
    step_size: float | Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> StateWeights:
    """The weights of the state (s, −m) over chunks of `size` positions, of which the keys up to `r`, R in all, are real.

        o_r = q_r·s + γ β (1 − β^r) / (1 − β) q_r·(−m) + what the chunk's own keys add
        s'  = s + γ β (1 − β^R) / (1 − β) (−m) + Σ_j γ w_{R−j} k_j v_jᵀ
        −m' = β^R (−m) + Σ_j β^{R−j} k_j v_jᵀ

    Args:
        real: as of `weights_within`.
    """
    rank, total = count_keys(size, real, device)
    further = total.unsqueeze(-1) - rank
    growth = growth_by_count(size, momentum, step_size, device)
    beta = momentum.double().reshape(-1, 1) if isinstance(momentum, Tensor) else momentum
    decay = power(beta, torch.arange(size + 1, dtype=torch.float64, device=device)).reshape(-1, size + 1)
    growth, decay = torch.broadcast_tensors(growth, decay)
    entry = beta * growth
    queries, gain = look_up(entry, rank), look_up(entry, total)
    zero = torch.zeros_like(gain)
    return StateWeights(
        queries=queries.unsqueeze(-1).to(dtype),
        keys=torch.stack([look_up(growth, further + 1), look_up(decay, further)], dim=-1).to(dtype),
        gain=torch.stack([zero, gain, zero, look_up(decay - 1, total)], dim=-1).unflatten(-1, (2, 2)).to(dtype),
    )


@kept
def scan_weights(
    size: int, momentum: float | Tensor, step_size: float | Tensor, dtype: torch.dtype, device: torch.device
) -> ScanWeights | None:
    """What the state (s, −m) becomes over up to `GROUP` chunks of `size` positions without padding, as `state_weights`.

    None where heads may differ in their numbers.
    """
    if isinstance(momentum, Tensor) or isinstance(step_size, Tensor):
        return None
    count = torch.arange(0, (GROUP + 1) * size, size, dtype=torch.float64, device=device)
    entry, decay = momentum * weights_of_counts(count, momentum, step_size), momentum**count
    zero, index = torch.zeros_like(entry), torch.arange(GROUP, device=device)
    factors = torch.stack([torch.ones_like(entry), entry, zero, decay], dim=-1).unflatten(-1, (2, 2))  # [GROUP+1,R,R]
    within = factors[(index.unsqueeze(-1) - index).clamp(min=0)]  # [i,j,R,R]
    within = torch.where((index.unsqueeze(-1) < index)[..., None, None], 0, within).transpose(1, 2)
    gain = torch.stack([zero, entry, zero, decay - 1], dim=-1).unflatten(-1, (2, 2))[1:]
    return ScanWeights(within.to(dtype), gain.to(dtype))


@kept
def recent_weights(
    size: int, momentum: float, step_size: float, dtype: torch.dtype, device: torch.device
) -> RecentWeights | None:
    """γ w_d as γ / (1 − β) less γ β^{d+1} / (1 − β), which is rounded away but for recent keys; None if they outnumber a chunk.

    Only across the border between chunks are the two apart, where the second is β² of the first or less: few digits are lost.
    """
    recent = first_steady_count(momentum, dtype) - 2  # across a border d + 1 is at least 2
    if recent > size:
        return None
    steady = step_size / (1 - momentum)
    if recent < 1:
        return RecentWeights(steady, None)
    index = torch.arange(recent, dtype=torch.float64, device=device)
    before = -steady * momentum ** (index.unsqueeze(-1) + recent - index + 1)
    return RecentWeights(steady, before.to(dtype))


def first_steady_count(momentum: float, dtype: torch.dtype) -> int:
    """The count c from which on 1 − β^c is rounded to one."""
    return 0 if momentum == 0 else math.ceil(math.log(torch.finfo(dtype).eps / 4) / math.log(momentum))


def count_keys(size: int, real: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Real keys of each chunk up to each position, `[B,C,L]`, and in all of it, `[B,C]`; without padding B = C = 1."""
    if real is None:
        return torch.arange(1, size + 1, device=device).reshape(1, 1, -1), torch.full((1, 1), size, device=device)
    real = real.squeeze(-1).squeeze(1)
    return real.cumsum(-1), real.sum(-1)


def growth_by_count(size: int, momentum: float | Tensor, step_size: float | Tensor, device: torch.device) -> Tensor:
    """γ (1 − β^c) / (1 − β) for c = 0 … L, `[H,L+1]` or `[1,L+1]`, float64."""
    count = torch.arange(size + 1, dtype=torch.float64, device=device)
    return weights_of_counts(count, momentum, step_size).reshape(-1, size + 1)


def look_up(weights: Tensor, count: Tensor) -> Tensor:
    """`[H,L+1]` at counts `[B,C,...]` → `[B,H,C,...]`."""
    return weights[:, count].transpose(0, 1)
