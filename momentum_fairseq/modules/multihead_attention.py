"""Multihead attention: projections around an attention kind chosen by name."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from momentum_fairseq.modules.attention_kind import AttentionOptions
from momentum_fairseq.modules.attention_kinds import ATTENTION_KINDS
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.modules.packed_linear import JointLinear, PackedLinear, is_plain
from momentum_fairseq.ops import ProjectedSource, WeightedSource, project_source
from momentum_fairseq.ops.checks import check_mask


class MultiheadAttention(nn.Module):
    """Project, split into heads, attend, join, project (Vaswani et al. 2017, section 3.2.2).

    What stays the same through all refinement steps is projected once: a source by `remember`, queries and keys by `pattern`.

    Args:
        embed_dim: C, features in and out.
        num_heads: H; C / H need not be even.
        options: the attention kind and its numbers.
        self_attention: queries and keys will always be of the same positions; some kinds do something else then.

    Raises:
        ValueError: C not a multiple of H, an unknown kind, or numbers that it doesn't take.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, options: AttentionOptions, *, self_attention: bool = False
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj = PackedLinear(embed_dim, embed_dim)
        self.k_proj = PackedLinear(embed_dim, embed_dim)
        self.v_proj = PackedLinear(embed_dim, embed_dim)
        self.out_proj = PackedLinear(embed_dim, embed_dim)
        place = replace(options.place, head_dim=embed_dim // num_heads, self_attention=self_attention)
        kind = lookup(ATTENTION_KINDS, options.kind, "attention kind", ", or name the plug-in that has it by --user-dir")
        self.attention = kind(num_heads, replace(options, place=place))
        if self.attention.shares_queries_and_keys:
            self.k_proj = self.q_proj
        self.qkv_proj = JointLinear(self, "q_proj", "k_proj", "v_proj")
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.out_proj.weight)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.zeros_(projection.bias)

    def project_query(self, query: Tensor) -> Tensor:
        """`[B,N,C]` → `[B,H,N,D]`."""
        return self._split(self.q_proj(query))

    def project_key(self, key: Tensor) -> Tensor:
        """`[B,S,C]` → `[B,H,S,D]`."""
        return self._split(self.k_proj(key))

    def project_value(self, value: Tensor) -> Tensor:
        """`[B,S,C]` → `[B,H,S,D]`."""
        return self._split(self.v_proj(value))

    def remember(self, source: Tensor, key_padding_mask: Tensor | None, *, many_reads: bool = False) -> Any:
        """What queries will read of a source `[B,S,C]` with its mask bool `[B,S]`, computed once.

        Where about as many queries as keys come many times, the output projection may be cheaper on the source than on them.
        """
        check_mask(key_padding_mask, *source.shape[:2], source.device)
        memory = self.attention.remember(self.project_key(source), self.project_value(source), key_padding_mask)
        if many_reads and isinstance(memory, WeightedSource) and is_plain(self.out_proj):
            return project_source(memory, self.out_proj.weight, self.out_proj.bias)
        return memory

    def recall(self, query: Tensor, memory: Any) -> Tensor:
        """`[B,N,C]` and what `remember` gave → `[B,N,C]`, as `forward` with that source."""
        out = self.attention.recall(self.project_query(query), memory)
        return out if isinstance(memory, ProjectedSource) else self._join(out)

    def pattern(self, positions: Tensor, key_padding_mask: Tensor | None) -> Any:
        """What queries and keys `[1,N,C]` or `[B,N,C]` with their mask bool `[B,N]` make of any values, computed once."""
        if key_padding_mask is not None:  # one row of queries and keys serves all rows of the mask
            rows = len(key_padding_mask if len(positions) == 1 else positions)
            check_mask(key_padding_mask, rows, positions.shape[1], positions.device)
        return self.attention.pattern(self.project_query(positions), self.project_key(positions), key_padding_mask)

    def weigh(self, value: Tensor, pattern: Any) -> Tensor:
        """`[B,N,C]` and what `pattern` gave → `[B,N,C]`, as `forward` with those queries and keys."""
        return self._join(self.attention.weigh(self.project_value(value), pattern))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """`[B,N,C]`, `[B,S,C]`, `[B,S,C]`, bool `[B,S]` (True = padding) → `[B,N,C]`."""
        if query is key is value and self.qkv_proj.packed is not None:
            check_mask(key_padding_mask, *query.shape[:2], query.device)
            qkv = self.qkv_proj(query).unflatten(-1, (3, self.num_heads, -1))  # [B,N,3,H,D]
            return self._join(self.attention.joint(qkv, key_padding_mask))
        q, k, v = self.project_query(query), self.project_key(key), self.project_value(value)
        return self._join(self.attention(q, k, v, key_padding_mask))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B,H,N,D]

    def _join(self, out: Tensor) -> Tensor:
        return self.out_proj(out.transpose(1, 2).flatten(2))  # [B,N,C]
