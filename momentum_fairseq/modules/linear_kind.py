"""Linear attention as a kind."""

import torch
from torch import Tensor

from momentum_fairseq.modules.attention_kind import AttentionOptions, refuse_learned, take_sizes
from momentum_fairseq.modules.feature_map_kind import FeatureMapAttention
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.ops import FEATURE_MAPS, LinearState, causal_linear_attention, linear_attention, linear_attention_step
from momentum_fairseq.ops.feature_maps import FeatureMap


class LinearAttention(FeatureMapAttention):
    """φ(q)(φ(k)ᵀ v), normalised (Katharopoulos et al. 2020)."""

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        take_sizes(options)
        self.map_query = self.map_key = lookup(FEATURE_MAPS, options.feature_map, "feature map")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`, bool `[B,S]` → `[B,H,N,M]`."""
        q, k, feature_map = self._mapped(q, k)
        return linear_attention(q, k, v, key_padding_mask=key_padding_mask, eps=self.eps, feature_map=feature_map)

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

    def _mapped(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, FeatureMap | None]:
        """φ(q), φ(k) and None; or, of a φ that both have, q, k and φ: a kernel takes it on the way."""
        if self.map_query is self.map_key:
            return q, k, self.map_key
        return self.map_query(q), self.map_key(k), None
