"""Reformer: softmax attention inside of buckets of a hash (Kitaev et al. 2020)."""

from functools import partial

import torch
from torch import Tensor

from momentum_fairseq.modules.attention_kind import (
    AttentionKind,
    AttentionOptions,
    refuse_feature_map,
    refuse_learned,
    take_sizes,
)
from momentum_fairseq.modules.random_draws import RandomDraws
from momentum_fairseq.ops.reformer_attention import lsh_attention, lsh_cross_attention


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


def normal_columns(shape: tuple[int, ...], columns: int, generator: torch.Generator) -> Tensor:
    """`[*shape, columns]`, one column after the other, so that with more of them the first ones stay what they are."""
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(columns)], dim=-1)
