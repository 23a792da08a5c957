"""Softmax attention as a kind."""

from torch import Tensor

from momentum_fairseq.modules.attention_kind import (
    AttentionKind,
    AttentionOptions,
    refuse_feature_map,
    refuse_learned,
    take_sizes,
)
from momentum_fairseq.ops import (
    AttentionPattern,
    KeyValueCache,
    QueriesAndKeys,
    causal_softmax_attention,
    read_values,
    softmax_attention,
    softmax_pattern,
)


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
