"""The mathematics, torch only: attention ops on `[B,H,N,D]`, their oracle, feature maps, corruption."""

from momentum_fairseq.ops.corruption import corrupt
from momentum_fairseq.ops.feature_maps import FEATURE_MAPS, elu_plus_one
from momentum_fairseq.ops.linear_attention import linear_attention
from momentum_fairseq.ops.momentum_attention import momentum_attention
from momentum_fairseq.ops.reference import recurrent_momentum_attention
from momentum_fairseq.ops.softmax_attention import softmax_attention

__all__ = [
    "FEATURE_MAPS",
    "corrupt",
    "elu_plus_one",
    "linear_attention",
    "momentum_attention",
    "recurrent_momentum_attention",
    "softmax_attention",
]
