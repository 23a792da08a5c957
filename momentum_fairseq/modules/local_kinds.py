"""Kinds in which a position reads some others: reformer by hashes, TransNormer (in its first layers) by blocks."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from momentum_fairseq.modules.attention_kind import (
    AttentionKind,
    AttentionOptions,
    refuse_feature_map,
    refuse_learned,
    take_sizes,
)
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.modules.random_draws import RandomDraws
from momentum_fairseq.ops.feature_maps import FEATURE_MAPS
from momentum_fairseq.ops.reformer_attention import lsh_attention, lsh_cross_attention
from momentum_fairseq.ops.transnormer_attention import (
    causal_norm_attention,
    diag_attention,
    diag_attention_step,
    norm_attention,
    read_norm_attention,
    remember_norm_attention,
)


class ReformerAttention(AttentionKind):
    """Softmax attention to the keys whose hash is like the query's (Kitaev et al. 2020); not causal.

    Self-attention has the same projection for queries and keys. Attention to another sequence hashes both by the same rotations.
    """

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        refuse_feature_map(options)
        sizes, place = take_sizes(options, hashes=4, bucket=64, redraw_interval=1000), options.place
        self.shares_queries_and_keys, self.chunk = place.self_attention, sizes.bucket
        columns = max(1, -(-place.max_length // sizes.bucket) // 2)
        draw = partial(normal_columns, (num_heads, sizes.hashes, place.head_dim), columns)
        self.rotations = RandomDraws(draw, sizes.redraw_interval)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        options = {"rotations": self.rotations(), "chunk": self.chunk, "key_padding_mask": key_padding_mask}
        if self.shares_queries_and_keys:
            return lsh_attention(q, v, **options)
        return lsh_cross_attention(q, k, v, **options)


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
        return norm_attention(self.feature_map(q), self.feature_map(k), v, self.gain, key_padding_mask=key_padding_mask)

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


def normal_columns(shape: tuple[int, ...], columns: int, generator: torch.Generator) -> Tensor:
    """`[*shape, columns]`, one column after the other, so that with more of them the first ones stay what they are."""
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(columns)], dim=-1)
