"""Attention kinds by name, those of linear attention first. A new kind is one file in `ops/`, a small class, here or in a file of
its own, and one line in `ATTENTION_KINDS`.
"""

from collections.abc import Callable
from functools import partial
from math import expm1, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_fairseq.modules.attention_kind import (
    AttentionKind,
    AttentionOptions,
    refuse_feature_map,
    refuse_learned,
    take_sizes,
)
from momentum_fairseq.modules.local_kinds import ReformerAttention, TransnormerAttention
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.modules.low_rank_kinds import LinformerAttention, NystromAttention
from momentum_fairseq.modules.random_draws import RandomDraws
from momentum_fairseq.modules.random_feature_kind import RandomFeatureAttention
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
    product_pattern,
    read_source,
    read_values,
    softmax_attention,
    softmax_pattern,
    symmetric_momentum_attention,
    weighted_source,
)
from momentum_fairseq.ops.checks import check_momentum
from momentum_fairseq.ops.feature_maps import FeatureMap, ProductMap
from momentum_fairseq.ops.kernel_choice import kernel_for
from momentum_fairseq.ops.linear_attention import products_suffice
from momentum_fairseq.ops.momentum_weights import momentum_weights
from momentum_fairseq.ops.performer_attention import orthogonal_directions, positive_key_features, positive_query_features
from momentum_fairseq.ops.scaled_momentum_step import ScaledMomentumState, plain_state, scaled_momentum_step_
from momentum_fairseq.ops.short_attention import short_attention
from momentum_fairseq.ops.symmetric_momentum_attention import symmetric_momentum_weights


class SoftmaxAttention(AttentionKind):
    """softmax(q kᵀ / √D) v."""

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        refuse_feature_map(options)
        take_sizes(options)

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

    eps = 1e-6

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        take_sizes(options)
        self.map_query = self.map_key = lookup(FEATURE_MAPS, options.feature_map, "feature map")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        q, k, feature_map = self._mapped(q, k)
        return linear_attention(q, k, v, key_padding_mask=key_padding_mask, eps=self.eps, feature_map=feature_map)

    def joint(self, qkv: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if self.map_query is not self.map_key or not is_short(qkv):
            return super().joint(qkv, key_padding_mask)
        q, k, v, product_map = mapped(qkv, self.map_key)
        return short_attention(q, k, v, None, key_padding_mask=key_padding_mask, eps=self.eps, product_map=product_map)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        q, k, feature_map = self._mapped(q, k)
        return causal_linear_attention(q, k, v, key_padding_mask=key_padding_mask, eps=self.eps, feature_map=feature_map)

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: LinearState | None
    ) -> tuple[Tensor, LinearState]:
        q, k, feature_map = self._mapped(q, k)
        options = {"eps": self.eps, "feature_map": feature_map}
        if key_padding_mask is None and q.shape[2] == 1:
            one, in_place = (q.squeeze(2), k.squeeze(2), v.squeeze(2)), not torch.is_grad_enabled()
            out, state = linear_attention_step(*one, state, in_place=in_place, **options)
            return out.unsqueeze(2), state
        return causal_linear_attention(
            q, k, v, key_padding_mask=key_padding_mask, initial_state=state, return_state=True, **options
        )

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> WeightedSource | KeysAndValues:
        if products_suffice(self.map_key, k, k, v):
            return super().remember(k, v, key_padding_mask)
        return weighted_source(self.map_key(k), v, None, key_padding_mask)

    def recall(self, q: Tensor, memory: WeightedSource | KeysAndValues) -> Tensor:
        if isinstance(memory, KeysAndValues):
            return super().recall(q, memory)
        return read_source(self.map_query(q), memory, eps=self.eps).to(q.dtype)

    def pattern(self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> AttentionPattern:
        if products_suffice(self.map_key, q, k, k):
            return product_pattern(q, k, None, key_padding_mask, self.map_key, eps=self.eps)
        return linear_pattern(self.map_query(q), self.map_key(k), None, key_padding_mask, eps=self.eps)

    def weigh(self, v: Tensor, pattern: AttentionPattern) -> Tensor:
        return read_values(v, pattern)

    def _mapped(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, FeatureMap | None]:
        """φ(q), φ(k) and None; or, of a φ that both have, q, k and φ: a kernel takes it on the way."""
        if self.map_query is self.map_key:
            return q, k, self.map_key
        return self.map_query(q), self.map_key(k), None


def is_short(qkv: Tensor) -> bool:
    """Whether `short_attention` is right for q, k and v `[B,N,3,H,D]`: where scores are cheaper, and torch is to compute them."""
    return qkv.shape[1] <= qkv.shape[4] and kernel_for(qkv, qkv) == "torch"


def mapped(qkv: Tensor, feature_map: FeatureMap) -> tuple[Tensor, Tensor, Tensor, ProductMap | None]:
    """q, k and v side by side `[B,N,3,H,D]` → φ(q), φ(k), v `[B,H,N,D]` and None; or q, k, v and a φ that is taken of q·k."""
    product_map = feature_map if isinstance(feature_map, ProductMap) else None
    q_and_k = qkv[:, :, :2] if product_map else feature_map(qkv[:, :, :2])
    return *q_and_k.permute(2, 0, 3, 1, 4), qkv[:, :, 2].transpose(1, 2), product_map


class PerformerAttention(LinearAttention):
    """FAVOR+: linear attention with random features that estimate softmax(q kᵀ / √D) v (Choromanski et al. 2021).

        φ(x) = exp(ω·x − ‖x‖² / 2) of q / D^¼ and k / D^¼        ω normal, orthogonal in blocks of D, drawn anew by schedule
    """

    # Features of long keys are tiny; the quotient of two tiny sums is right all the same, as long as float32 has room for them:
    # to about ‖k‖² = 2 √D · 40. Far longer keys read zeros.
    eps = 1e-20

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        AttentionKind.__init__(self)
        refuse_learned(options)
        refuse_feature_map(options)
        sizes = take_sizes(options, features=256, redraw_interval=1000)
        draw = partial(orthogonal_directions, num_heads, sizes.features, options.place.head_dim)
        self.directions = RandomDraws(draw, sizes.redraw_interval)

    def map_query(self, q: Tensor) -> Tensor:
        return positive_query_features(q, self.directions())

    def map_key(self, k: Tensor) -> Tensor:
        return positive_key_features(k, self.directions())


class MomentumAttention(AttentionKind):
    """Linear attention with a heavy ball (Nguyen et al. 2022, Eq. 14), β and γ fixed or learned per head.

    Learned: β = sigmoid(momentum_logit), γ = softplus(step_size_raw), `[H]` each.

    Raises:
        ValueError: β outside [0, 1), γ <= 0; or β = 0 where it is to be learned (a sigmoid never gets there).
    """

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        check_momentum(options.momentum, options.step_size, num_heads)
        take_sizes(options)
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
        options = {"key_padding_mask": key_padding_mask, "feature_map": self.feature_map}
        return momentum_attention(q, k, v, **options, **self._numbers())

    def joint(self, qkv: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if not is_short(qkv):
            return super().joint(qkv, key_padding_mask)
        q, k, v, product_map = mapped(qkv, self.feature_map)
        weights = self._weights(k, key_padding_mask)
        return short_attention(q, k, v, weights, key_padding_mask=key_padding_mask, product_map=product_map)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        options = {"key_padding_mask": key_padding_mask, "feature_map": self.feature_map}
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
                out, state = scaled_momentum_step_(self.feature_map(q), self.feature_map(k), v, scaled, **numbers)
            else:
                options = {"in_place": in_place, "feature_map": self.feature_map}
                out, state = momentum_attention_step(*one, plain_state(state), **options, **numbers)
            return out.unsqueeze(2), state
        options = {"key_padding_mask": key_padding_mask, "feature_map": self.feature_map}
        return causal_momentum_attention(
            q, k, v, initial_state=plain_state(state), return_state=True, **options, **numbers
        )

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> WeightedSource | KeysAndValues:
        if products_suffice(self.feature_map, k, k, v):
            return super().remember(k, v, key_padding_mask)
        return weighted_source(self.feature_map(k), v, self._weights(k, key_padding_mask), key_padding_mask)

    def recall(self, q: Tensor, memory: WeightedSource | KeysAndValues) -> Tensor:
        if isinstance(memory, KeysAndValues):
            return super().recall(q, memory)
        return read_source(self.feature_map(q), memory).to(q.dtype)

    def pattern(self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> AttentionPattern:
        weights = self._weights(k, key_padding_mask)
        if products_suffice(self.feature_map, q, k, k):
            return product_pattern(q, k, weights, key_padding_mask, self.feature_map)
        return linear_pattern(self.feature_map(q), self.feature_map(k), weights, key_padding_mask)

    def weigh(self, v: Tensor, pattern: AttentionPattern) -> Tensor:
        return read_values(v, pattern)

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
        options = {"key_padding_mask": key_padding_mask, "feature_map": self.feature_map}
        return symmetric_momentum_attention(q, k, v, **options, **self._numbers())

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
    "performer": PerformerAttention,
    "rfa": RandomFeatureAttention,
    "linformer": LinformerAttention,
    "nystrom": NystromAttention,
    "reformer": ReformerAttention,
    "transnormer": TransnormerAttention,
}
