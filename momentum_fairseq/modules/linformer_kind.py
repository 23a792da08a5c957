"""Linformer: keys and values projected to a fixed length (Wang et al. 2020)."""

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
