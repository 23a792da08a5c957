"""Attention kinds by name. A new kind is one file in `ops/`, a few lines here, and one line in `ATTENTION_KINDS`."""

from collections.abc import Callable
from dataclasses import dataclass
from math import expm1, log
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_fairseq.ops import (
    FEATURE_MAPS,
    AttentionPattern,
    KeysAndValues,
    KeyValueCache,
    LinearState,
    MomentumState,
    QueriesAndKeys,
    WeightedSource,
    causal_linear_attention,
    causal_momentum_attention,
    causal_softmax_attention,
    linear_attention,
    linear_attention_step,
    linear_pattern,
    momentum_attention,
    momentum_attention_step,
    read_source,
    read_values,
    softmax_attention,
    softmax_pattern,
    symmetric_momentum_attention,
    weighted_source,
)
from momentum_fairseq.ops.checks import check_momentum
from momentum_fairseq.ops.momentum_weights import momentum_weights
from momentum_fairseq.ops.symmetric_momentum_attention import symmetric_momentum_weights

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


class AttentionKind(nn.Module):
    """What a kind does with projected q `[B,H,N,D]`, k `[B,H,S,D]`, v `[B,H,S,M]` and a mask bool `[B,S]` (True = padding).

    `forward` is not causal. A kind that has a causal form gives it as `causal`, for all positions at once, and as `step`, for
    the positions after those that a state has read. `remember` and `recall` are `forward` in two halves: what a source needs
    computing once, and what each query needs.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """→ `[B,H,N,M]`."""
        raise NotImplementedError

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """N = S; query i reads keys 1 … i → `[B,H,N,M]`."""
        raise NotImplementedError

    def step(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """N new positions after those in `state`, None before the first → `[B,H,N,M]` and the new state.

        The state given is spent: without gradients the new one is written over it. A state's `reorder(order)` is that of other
        rows of the batch, int64 `[B']`.
        """
        raise NotImplementedError

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Any:
        """What queries read of a source; its `reorder(order)` is that of other rows of the batch."""
        return KeysAndValues(k, v, key_padding_mask)

    def recall(self, q: Tensor, memory: Any) -> Tensor:
        """`forward` of the source that `remember` has read → `[B,H,N,M]`."""
        return self(q, *memory)

    def pattern(self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> Any:
        """What q and k that stay the same make of any values; one row of q and k `[1,H,N,D]` may serve the whole batch.

        Its `reorder(order)` is that of other rows of the batch.
        """
        return QueriesAndKeys(q, k, key_padding_mask)

    def weigh(self, v: Tensor, pattern: Any) -> Tensor:
        """`forward` of the queries and keys that `pattern` has read, with values finite at padding → `[B,H,N,M]`."""
        q, k, key_padding_mask = pattern
        return self(q.expand(len(v), -1, -1, -1), k.expand(len(v), -1, -1, -1), v, key_padding_mask)


class SoftmaxAttention(AttentionKind):
    """softmax(q kᵀ / √D) v."""

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        return softmax_attention(q, k, v, key_padding_mask=key_padding_mask)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return causal_softmax_attention(q, k, v, key_padding_mask=key_padding_mask)

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: KeyValueCache | None
    ) -> tuple[Tensor, KeyValueCache]:
        state = (KeyValueCache.empty(k, v) if state is None else state).append(k, v, key_padding_mask)
        keys, values, padding = state.held()
        return causal_softmax_attention(q, keys, values, key_padding_mask=padding), state

    def pattern(
        self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None
    ) -> AttentionPattern | QueriesAndKeys:
        # No larger than q and k, or the memory would grow with the square of the length.
        small = q.shape[2] * k.shape[2] <= (q.shape[2] + k.shape[2]) * q.shape[3]
        return softmax_pattern(q, k, key_padding_mask) if small else super().pattern(q, k, key_padding_mask)

    def weigh(self, v: Tensor, pattern: AttentionPattern | QueriesAndKeys) -> Tensor:
        return read_values(v, pattern) if isinstance(pattern, AttentionPattern) else super().weigh(v, pattern)


class LinearAttention(AttentionKind):
    """φ(q)(φ(k)ᵀ v), normalised (Katharopoulos et al. 2020)."""

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        self.feature_map = lookup(FEATURE_MAPS, options.feature_map, "feature map")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        return linear_attention(self.feature_map(q), self.feature_map(k), v, key_padding_mask=key_padding_mask)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return causal_linear_attention(self.feature_map(q), self.feature_map(k), v, key_padding_mask=key_padding_mask)

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: LinearState | None
    ) -> tuple[Tensor, LinearState]:
        q, k = self.feature_map(q), self.feature_map(k)
        if key_padding_mask is None and q.shape[2] == 1:
            in_place = not torch.is_grad_enabled()
            out, state = linear_attention_step(q.squeeze(2), k.squeeze(2), v.squeeze(2), state, in_place=in_place)
            return out.unsqueeze(2), state
        return causal_linear_attention(
            q, k, v, key_padding_mask=key_padding_mask, initial_state=state, return_state=True
        )

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> WeightedSource:
        return weighted_source(self.feature_map(k), v, None, key_padding_mask)

    def recall(self, q: Tensor, memory: WeightedSource) -> Tensor:
        return read_source(self.feature_map(q), memory).to(q.dtype)

    def pattern(self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> AttentionPattern:
        return linear_pattern(self.feature_map(q), self.feature_map(k), None, key_padding_mask)

    def weigh(self, v: Tensor, pattern: AttentionPattern) -> Tensor:
        return read_values(v, pattern)


class MomentumAttention(AttentionKind):
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
        q, k = self.feature_map(q), self.feature_map(k)
        return momentum_attention(q, k, v, key_padding_mask=key_padding_mask, **self._numbers())

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        q, k = self.feature_map(q), self.feature_map(k)
        return causal_momentum_attention(q, k, v, key_padding_mask=key_padding_mask, **self._numbers())

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: MomentumState | None
    ) -> tuple[Tensor, MomentumState]:
        q, k, numbers = self.feature_map(q), self.feature_map(k), self._numbers()
        if key_padding_mask is None and q.shape[2] == 1:
            in_place = not torch.is_grad_enabled()
            out, state = momentum_attention_step(
                q.squeeze(2), k.squeeze(2), v.squeeze(2), state, in_place=in_place, **numbers
            )
            return out.unsqueeze(2), state
        return causal_momentum_attention(
            q, k, v, key_padding_mask=key_padding_mask, initial_state=state, return_state=True, **numbers
        )

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> WeightedSource:
        return weighted_source(self.feature_map(k), v, self._weights(k, key_padding_mask), key_padding_mask)

    def recall(self, q: Tensor, memory: WeightedSource) -> Tensor:
        return read_source(self.feature_map(q), memory).to(q.dtype)

    def pattern(self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> AttentionPattern:
        weights = self._weights(k, key_padding_mask)
        return linear_pattern(self.feature_map(q), self.feature_map(k), weights, key_padding_mask)

    def weigh(self, v: Tensor, pattern: AttentionPattern) -> Tensor:
        return read_values(v, pattern)

    def _weights(self, k: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        dtype = torch.promote_types(k.dtype, torch.float32)
        numbers = self._numbers()
        return momentum_weights(k.shape[2], **numbers, key_padding_mask=key_padding_mask, dtype=dtype, device=k.device)

    def _numbers(self) -> dict[str, float | Tensor]:
        momentum, step_size = self.fixed or (
            torch.sigmoid(self.momentum_logit.float()),
            F.softplus(self.step_size_raw.float()),
        )
        return {"momentum": momentum, "step_size": step_size}


class SymmetricMomentumAttention(MomentumAttention):
    """Momentum attention averaged over both directions; it reads later keys, so it has no causal form."""

    causal, step = AttentionKind.causal, AttentionKind.step

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        q, k = self.feature_map(q), self.feature_map(k)
        return symmetric_momentum_attention(q, k, v, key_padding_mask=key_padding_mask, **self._numbers())

    def _weights(self, k: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        dtype, numbers = torch.promote_types(k.dtype, torch.float32), self._numbers()
        return symmetric_momentum_weights(
            k.shape[2], **numbers, key_padding_mask=key_padding_mask, dtype=dtype, device=k.device
        )


ATTENTION_KINDS: dict[str, Callable[[int, AttentionOptions], AttentionKind]] = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "momentum": MomentumAttention,
    "symmetric_momentum": SymmetricMomentumAttention,
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
