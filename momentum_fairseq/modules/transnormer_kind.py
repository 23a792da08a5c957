"""TransNormer: blocks in the first layers, linear attention without a normaliser in the others (Qin et al. 2022)."""

from typing import Any

import torch
from torch import Tensor, nn

from momentum_fairseq.modules.attention_kind import AttentionKind, AttentionOptions, refuse_learned, take_sizes
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.ops.feature_maps import FEATURE_MAPS
from momentum_fairseq.ops.transnormer_attention import (
    causal_norm_attention,
    diag_attention,
    diag_attention_step,
    norm_attention,
    read_norm_attention,
    remember_norm_attention,
)


class TransnormerAttention(AttentionKind):
    """DiagAttention in the first half of the layers, NormAttention in the second (Qin et al. 2022).

        DiagAttention: softmax(q kᵀ / √D) v inside blocks        NormAttention: RMSNorm(φ(q) (φ(k)ᵀ v))

    The blocks are of one sequence: attention to another one is NormAttention in all layers, as is all of a stack of one layer.
    """

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        place = options.place
        self.block = take_sizes(options, block=64).block
        self.diagonal = place.self_attention and place.layer < place.layers // 2
        if not self.diagonal:
            self.feature_map = lookup(FEATURE_MAPS, options.feature_map, "feature map")
            self.gain = nn.Parameter(torch.ones(num_heads, place.head_dim))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if self.diagonal:
            return diag_attention(q, k, v, self.block, key_padding_mask=key_padding_mask)
        return norm_attention(q, k, v, self.gain, key_padding_mask=key_padding_mask, feature_map=self.feature_map)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if self.diagonal:
            return diag_attention(q, k, v, self.block, causal=True, key_padding_mask=key_padding_mask)
        return self.step(q, k, v, key_padding_mask, None)[0]

    def step(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        if self.diagonal:
            return diag_attention_step(q, k, v, self.block, state, key_padding_mask=key_padding_mask)
        q, k = self.feature_map(q), self.feature_map(k)
        return causal_norm_attention(q, k, v, self.gain, key_padding_mask=key_padding_mask, state=state)

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Any:
        if self.diagonal:
            return super().remember(k, v, key_padding_mask)
        return remember_norm_attention(self.feature_map(k), v, key_padding_mask)

    def recall(self, q: Tensor, memory: Any) -> Tensor:
        if self.diagonal:
            return super().recall(q, memory)
        return read_norm_attention(self.feature_map(q), memory, self.gain).to(q.dtype)
