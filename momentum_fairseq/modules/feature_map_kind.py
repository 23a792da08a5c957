"""What the kinds that sum over φ(q)·φ(k) have in common: linear and momentum attention, performer."""

import torch
from torch import Tensor

from momentum_fairseq.modules.attention_kind import AttentionKind
from momentum_fairseq.ops import (
    AttentionPattern,
    KeysAndValues,
    ProjectedSource,
    WeightedSource,
    linear_pattern,
    product_pattern,
    read_source,
    read_values,
    weighted_source,
)
from momentum_fairseq.ops.contraction_order import products_suffice
from momentum_fairseq.ops.feature_maps import FeatureMap, ProductMap
from momentum_fairseq.ops.kernel_choice import kernel_for
from momentum_fairseq.ops.short_attention import short_attention


class FeatureMapAttention(AttentionKind):
    """Σ_j w_j (φ(q)·φ(k_j)) v_j / (Σ_j φ(q)·φ(k_j) + eps), read in all the ways that aren't causal.

    Attributes:
        map_query, map_key: φ of queries and of keys, one and the same but where a kind says otherwise.
        eps: added to the normaliser.
    """

    map_query: FeatureMap
    map_key: FeatureMap
    eps = 1e-6

    def joint(self, qkv: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if self.map_query is not self.map_key or not is_short(qkv):
            return super().joint(qkv, key_padding_mask)
        q, k, v, product_map = mapped(qkv, self.map_key)
        weights = self._weights(k, key_padding_mask)
        return short_attention(q, k, v, weights, key_padding_mask=key_padding_mask, eps=self.eps, product_map=product_map)

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> WeightedSource | KeysAndValues:
        product_map = self.map_key if products_suffice(self.map_key, k, k, v) else None
        if product_map is not None and torch.is_grad_enabled():  # passes by hand are quicker there
            return super().remember(k, v, key_padding_mask)
        k = self.map_key(k) if product_map is None else k
        return weighted_source(k, v, self._weights(k, key_padding_mask), key_padding_mask, product_map)

    def recall(self, q: Tensor, memory: WeightedSource | ProjectedSource | KeysAndValues) -> Tensor:
        if isinstance(memory, KeysAndValues):
            return super().recall(q, memory)
        dtype = q.dtype
        q = self.map_query(q) if memory.product_map is None else q
        return read_source(q, memory, eps=self.eps).to(dtype)

    def pattern(self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> AttentionPattern:
        weights = self._weights(k, key_padding_mask)
        if products_suffice(self.map_key, q, k, k):
            return product_pattern(q, k, weights, key_padding_mask, self.map_key, eps=self.eps)
        return linear_pattern(self.map_query(q), self.map_key(k), weights, key_padding_mask, eps=self.eps)

    def weigh(self, v: Tensor, pattern: AttentionPattern) -> Tensor:
        return read_values(v, pattern)

    def _weights(self, k: Tensor, key_padding_mask: Tensor | None) -> Tensor | None:
        """w of keys `[B,H,S,D]` with their mask bool `[B,S]`: `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`; None = 1."""
        return None


def is_short(qkv: Tensor) -> bool:
    """Whether `short_attention` is right for q, k and v `[B,N,3,H,D]`: where scores are cheaper, and torch is to compute them."""
    return qkv.shape[1] <= qkv.shape[4] and kernel_for(qkv, qkv) == "torch"


def mapped(qkv: Tensor, feature_map: FeatureMap) -> tuple[Tensor, Tensor, Tensor, ProductMap | None]:
    """q, k and v side by side `[B,N,3,H,D]` → φ(q), φ(k), v `[B,H,N,D]` and None; or q, k, v and a φ that is taken of q·k."""
    by_head = qkv.permute(2, 0, 3, 1, 4)  # [3,B,H,N,D]
    if len(qkv) > 1:  # else the products of all heads would copy each of the three, and φ takes longer of what has gaps
        by_head = by_head.contiguous()
    product_map = feature_map if isinstance(feature_map, ProductMap) else None
    q, k = (by_head[:2] if product_map else feature_map(by_head[:2])).unbind()
    return q, k, by_head[2], product_map
