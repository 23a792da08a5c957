"""Performer attention as a kind."""

from functools import partial

from torch import Tensor

from momentum_fairseq.modules.attention_kind import (
    AttentionKind,
    AttentionOptions,
    refuse_feature_map,
    refuse_learned,
    take_sizes,
)
from momentum_fairseq.modules.linear_kind import LinearAttention
from momentum_fairseq.modules.random_draws import RandomDraws
from momentum_fairseq.ops.performer_attention import orthogonal_directions, positive_key_features, positive_query_features


class PerformerAttention(LinearAttention):
    """FAVOR+: linear attention with random features that estimate softmax(q kᵀ / √D) v (Choromanski et al. 2021).

        φ(x) = exp(ω·x − ‖x‖² / 2) of q / D^¼ and k / D^¼        ω normal, orthogonal in blocks of D, drawn anew by schedule
    """

    # Features of long keys are tiny; the quotient of two tiny sums is right all the same, as long as float32 has room for them:
    # to about ‖k‖² = 2 √D · 40. Far longer keys read zeros.
    eps = 1e-20

    def __init__(self, num_heads: int, options: AttentionOptions) -> None:
        AttentionKind.__init__(self)
        refuse_learned(options)
        refuse_feature_map(options)
        sizes = take_sizes(options, features=256, redraw_interval=1000)
        draw = partial(orthogonal_directions, num_heads, sizes.features, options.place.head_dim)
        self.directions = RandomDraws(draw, sizes.redraw_interval)

    def map_query(self, q: Tensor) -> Tensor:
        return positive_query_features(q, self.directions())

    def map_key(self, k: Tensor) -> Tensor:
        return positive_key_features(k, self.directions())
