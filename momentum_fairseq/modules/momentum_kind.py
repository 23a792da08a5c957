"""Momentum attention as a kind, forwards or in both directions."""

from math import expm1, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_fairseq.modules.attention_kind import AttentionKind, AttentionOptions, take_sizes
from momentum_fairseq.modules.feature_map_kind import FeatureMapAttention
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.ops import (
    FEATURE_MAPS,
    MomentumState,
    causal_momentum_attention,
    momentum_attention,
    momentum_attention_step,
    symmetric_momentum_attention,
)
from momentum_fairseq.ops.checks import check_momentum
from momentum_fairseq.ops.momentum_weights import momentum_weights
from momentum_fairseq.ops.scaled_momentum_step import ScaledMomentumState, plain_state, scaled_momentum_step_
from momentum_fairseq.ops.symmetric_momentum_attention import symmetric_momentum_weights


class MomentumAttention(FeatureMapAttention):
    """Linear attention with a heavy ball (Nguyen et al. 2022, Eq. 14), β and γ fixed or learned per head.

    Learned: β = sigmoid(momentum_logit), γ = softplus(step_size_raw), `[H]` each.

    Raises:
        ValueError: β outside [0, 1), γ <= 0; or β = 0 where it is to be learned (a sigmoid never gets there).
    """

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        check_momentum(options.momentum, options.step_size, num_heads)
        take_sizes(options)
        self.map_query = self.map_key = lookup(FEATURE_MAPS, options.feature_map, "feature map")
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
        options = {"key_padding_mask": key_padding_mask, "eps": self.eps, "feature_map": self.map_key}
        return momentum_attention(q, k, v, **options, **self._numbers())

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        options = {"key_padding_mask": key_padding_mask, "eps": self.eps, "feature_map": self.map_key}
        return causal_momentum_attention(q, k, v, **options, **self._numbers())

    def step(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_padding_mask: Tensor | None,
        state: MomentumState | ScaledMomentumState | None,
    ) -> tuple[Tensor, MomentumState | ScaledMomentumState]:
        numbers = self._numbers()
        if key_padding_mask is None and q.shape[2] == 1:
            one, in_place = (q.squeeze(2), k.squeeze(2), v.squeeze(2)), not torch.is_grad_enabled()
            if state is not None and in_place and self.fixed and v.device.type == "cpu" and v.dtype == state.s.dtype == q.dtype:
                scaled = state if isinstance(state, ScaledMomentumState) else ScaledMomentumState.of(state)
                q, k, v = one
                out, state = scaled_momentum_step_(self.map_key(q), self.map_key(k), v, scaled, eps=self.eps, **numbers)
            else:
                options = {"in_place": in_place, "eps": self.eps, "feature_map": self.map_key}
                out, state = momentum_attention_step(*one, plain_state(state), **options, **numbers)
            return out.unsqueeze(2), state
        options = {"key_padding_mask": key_padding_mask, "eps": self.eps, "feature_map": self.map_key}
        return causal_momentum_attention(
            q, k, v, initial_state=plain_state(state), return_state=True, **options, **numbers
        )

    def _weights(self, k: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        dtype = torch.promote_types(k.dtype, torch.float32)
        numbers = self._numbers()
        return momentum_weights(k.shape[2], **numbers, key_padding_mask=key_padding_mask, dtype=dtype, device=k.device)

    def _numbers(self) -> dict[str, float | Tensor]:
        if self.fixed:
            momentum, step_size = self.fixed
        else:
            dtype = torch.promote_types(self.momentum_logit.dtype, torch.float32)
            # Clamped: of a large number the sigmoid is rounded to one, and 1 − β^c over 1 − β would be 0/0; of one far below zero
            # the softplus is rounded to zero, which is no step size.
            momentum = torch.sigmoid(self.momentum_logit.to(dtype)).clamp(max=1 - torch.finfo(dtype).eps)
            step_size = F.softplus(self.step_size_raw.to(dtype)).clamp(min=torch.finfo(dtype).tiny)
        return {"momentum": momentum, "step_size": step_size}


class SymmetricMomentumAttention(MomentumAttention):
    """Momentum attention averaged over both directions; it reads later keys, so it has no causal form."""

    causal, step = AttentionKind.causal, AttentionKind.step

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        options = {"key_padding_mask": key_padding_mask, "eps": self.eps, "feature_map": self.map_key}
        return symmetric_momentum_attention(q, k, v, **options, **self._numbers())

    def _weights(self, k: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        dtype, numbers = torch.promote_types(k.dtype, torch.float32), self._numbers()
        return symmetric_momentum_weights(
            k.shape[2], **numbers, key_padding_mask=key_padding_mask, dtype=dtype, device=k.device
        )
