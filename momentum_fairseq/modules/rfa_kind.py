"""RFA: random feature attention (Peng et al. 2021)."""

from functools import partial

import torch
from torch import Tensor, nn

from momentum_fairseq.modules.attention_kind import (
    AttentionKind,
    AttentionOptions,
    refuse_feature_map,
    refuse_learned,
    take_sizes,
)
from momentum_fairseq.modules.random_draws import RandomDraws
from momentum_fairseq.ops.causal_product import ProductState
from momentum_fairseq.ops.performer_attention import orthogonal_directions
from momentum_fairseq.ops.random_feature_attention import (
    causal_random_feature_attention,
    random_feature_attention,
    read_random_features,
    remember_random_features,
    trigonometric_features,
)


class RandomFeatureAttention(AttentionKind):
    """Σ_j (φ(q)·φ(k_j)) v_j / Σ_j φ(q)·φ(k_j) with φ(x) = [sin(ω·x/‖x‖), cos(ω·x/‖x‖)] / √F (Peng et al. 2021).

    ω = σ ∘ ω̃ with σ `[H,D]` learned (their section 3.1), from ones on, and ω̃ normal, orthogonal in blocks as performer's are:
    a smaller error of the same estimate.
    """

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        super().__init__()
        refuse_learned(options)
        refuse_feature_map(options)
        sizes, dim = take_sizes(options, features=64, redraw_interval=1000), options.place.head_dim
        self.scale = nn.Parameter(torch.ones(num_heads, dim))
        self.directions = RandomDraws(partial(orthogonal_directions, num_heads, sizes.features, dim), sizes.redraw_interval)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return random_feature_attention(self._features(q), self._features(k), v, key_padding_mask=key_padding_mask)

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return self.step(q, k, v, key_padding_mask, None)[0]

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: ProductState | None
    ) -> tuple[Tensor, ProductState]:
        q, k = self._features(q), self._features(k)
        return causal_random_feature_attention(q, k, v, key_padding_mask=key_padding_mask, state=state)

    def remember(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> ProductState:
        return remember_random_features(self._features(k), v, key_padding_mask)

    def recall(self, q: Tensor, memory: ProductState) -> Tensor:
        return read_random_features(self._features(q), memory).to(q.dtype)

    def _features(self, x: Tensor) -> Tensor:
        return trigonometric_features(x, self.directions() * self.scale.unsqueeze(1))
