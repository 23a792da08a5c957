"""Nyströmformer: softmax attention by way of landmarks (Xiong et al. 2021)."""

from torch import Tensor

from momentum_fairseq.modules.attention_kind import (
    AttentionKind,
    AttentionOptions,
    refuse_feature_map,
    refuse_learned,
    take_sizes,
)
from momentum_fairseq.ops.nystrom_attention import nystrom_attention, nystrom_source, read_landmarks
from momentum_fairseq.ops.source_memory import KeysAndValues


class NystromAttention(AttentionKind):
    """softmax(q k̃ᵀ/√D) softmax(q̃ k̃ᵀ/√D)⁺ softmax(q̃ kᵀ/√D) v with means of segments q̃, k̃ (Xiong et al. 2021); not causal.

    Attention to another sequence has landmarks of the keys for both. The convolution of the values that the paper's code adds is
    no part of the approximation and left out.
    """

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        refuse_feature_map(options)
        self.landmarks = take_sizes(options, landmarks=64).landmarks
        self.self_attention = options.place.self_attention

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return nystrom_attention(
            q, k, v, self.landmarks, self_attention=self.self_attention, key_padding_mask=key_padding_mask
        )

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> KeysAndValues:
        if self.self_attention:  # landmarks of the queries too, which aren't there yet
            return super().remember(k, v, key_padding_mask)
        return nystrom_source(k, v, self.landmarks, key_padding_mask)

    def recall(self, q: Tensor, memory: KeysAndValues) -> Tensor:
        return super().recall(q, memory) if self.self_attention else read_landmarks(q, memory).to(q.dtype)
