"""Kinds that read a few positions made of all keys: linformer, Nyström."""

import math

import torch
from torch import Tensor, nn

from momentum_fairseq.modules.attention_kind import (
    AttentionKind,
    AttentionOptions,
    refuse_feature_map,
    refuse_learned,
    take_sizes,
)
from momentum_fairseq.ops.linformer_attention import linformer_attention, project_positions, read_projected_positions
from momentum_fairseq.ops.nystrom_attention import nystrom_attention, nystrom_source, read_landmarks
from momentum_fairseq.ops.source_memory import KeysAndValues


class LinformerAttention(AttentionKind):
    """softmax(q (E k)ᵀ / √D) F v with E, F `[P,L]` learned, shared by the heads (Wang et al. 2020); not causal.

    L is the most keys of its place.
    """

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        refuse_feature_map(options)
        sizes = take_sizes(options, projected_length=256)
        self.key_projection, self.value_projection = (
            nn.Parameter(torch.empty(sizes.projected_length, options.place.max_length)) for _ in range(2)
        )
        for projection in (self.key_projection, self.value_projection):
            nn.init.xavier_uniform_(projection, gain=1 / math.sqrt(2))  # as the paper's code

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        projections = self.key_projection, self.value_projection
        return linformer_attention(q, k, v, *projections, key_padding_mask=key_padding_mask)

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> KeysAndValues:
        return project_positions(k, v, self.key_projection, self.value_projection, key_padding_mask)

    def recall(self, q: Tensor, memory: KeysAndValues) -> Tensor:
        return read_projected_positions(q, memory).to(q.dtype)


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
