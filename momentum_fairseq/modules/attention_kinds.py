"""Attention kinds by name. A new kind is one file in `ops/`, a few lines here, and one line in `ATTENTION_KINDS`."""

from collections.abc import Callable
from dataclasses import dataclass
from math import expm1, log
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_fairseq.ops import FEATURE_MAPS, linear_attention, momentum_attention, softmax_attention
from momentum_fairseq.ops.checks import check_momentum

T = TypeVar("T")


@dataclass(frozen=True)
class AttentionOptions:
    """What an attention is made of; each kind takes what it needs.

    Attributes:
        kind: a name in `ATTENTION_KINDS`.
        momentum: β in [0, 1).
        step_size: γ > 0.
        momentum_learned: learn β and γ, one of each a head, from these values on.
        feature_map: φ, a name in `FEATURE_MAPS`.
    """

    kind: str = "momentum"
    momentum: float = 0.6
    step_size: float = 0.6
    momentum_learned: bool = False
    feature_map: str = "elu"


class SoftmaxAttention(nn.Module):
    """softmax(q kᵀ / √D) v."""

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        return softmax_attention(q, k, v, key_padding_mask=key_padding_mask)


class LinearAttention(nn.Module):
    """φ(q)(φ(k)ᵀ v), normalised (Katharopoulos et al. 2020)."""

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        self.feature_map = lookup(FEATURE_MAPS, options.feature_map, "feature map")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        return linear_attention(self.feature_map(q), self.feature_map(k), v, key_padding_mask=key_padding_mask)


class MomentumAttention(nn.Module):
    """Linear attention with a heavy ball (Nguyen et al. 2022, Eq. 14), β and γ fixed or learned per head.

    Learned: β = sigmoid(momentum_logit), γ = softplus(step_size_raw), `[H]` each.

    Raises:
        ValueError: β outside [0, 1), γ <= 0; or β = 0 where it is to be learned (a sigmoid never gets there).
    """

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        check_momentum(options.momentum, options.step_size, num_heads)
        self.feature_map = lookup(FEATURE_MAPS, options.feature_map, "feature map")
        self.fixed = None if options.momentum_learned else (options.momentum, options.step_size)
        if self.fixed is None:
            if options.momentum == 0:
                raise ValueError("a learned momentum must start inside (0, 1), got 0")
            logit = log(options.momentum) - log(1 - options.momentum)
            raw = options.step_size if options.step_size > 30 else log(expm1(options.step_size))
            self.momentum_logit = nn.Parameter(torch.full((num_heads,), logit))
            self.step_size_raw = nn.Parameter(torch.full((num_heads,), raw))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        momentum, step_size = self.fixed or (
            torch.sigmoid(self.momentum_logit.float()),
            F.softplus(self.step_size_raw.float()),
        )
        return momentum_attention(
            self.feature_map(q),
            self.feature_map(k),
            v,
            momentum=momentum,
            step_size=step_size,
            key_padding_mask=key_padding_mask,
        )


ATTENTION_KINDS: dict[str, Callable[[int, AttentionOptions], nn.Module]] = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "momentum": MomentumAttention,
}


def refuse_learned(options: AttentionOptions) -> None:
    """Raise ValueError where a kind without momentum is asked to learn it."""
    if options.momentum_learned:
        raise ValueError(f"{options.kind} attention has no momentum to learn")


def lookup(table: dict[str, T], name: str, what: str) -> T:
    """`table[name]`, or a ValueError that names the value and the choices."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(sorted(table))}")
    return table[name]
