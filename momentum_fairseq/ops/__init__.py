"""The mathematics, torch only: attention ops on `[B,H,N,D]`, their oracle, feature maps, corruption.

`reference` defines momentum attention; the other forms are quicker, and held to it. Where to look:

    linear_attention, momentum_attention     what callers use; they check, and choose the form
      noncausal_by_kernel, causal_by_kernel  ask `kernel_choice` whether Triton or the reference is to compute it
      short_attention                        not causal, few positions, no gradients
      noncausal_by_hand                      not causal, backward by hand; recorded forms in linear_attention
      causal_by_hand, causal_rows            causal, from no state on, backward by hand
      causal_chunks                          causal, recorded: learned weights, states before and after, second derivatives
      scaled_momentum_step                   one more position on a CPU
    contraction_order                        which products are cheapest
    momentum_weights                         γ (1 − β^c) / (1 − β), of keys and of states
    attention_pattern, source_memory         what stays the same through all refinement steps, computed once
    *_attention                              the other kinds
"""

from momentum_fairseq.ops.attention_pattern import (
    AttentionPattern,
    QueriesAndKeys,
    linear_pattern,
    product_pattern,
    read_values,
    softmax_pattern,
)
from momentum_fairseq.ops.corruption import corrupt
from momentum_fairseq.ops.feature_maps import FEATURE_MAPS, elu_plus_one
from momentum_fairseq.ops.flash_linear_attention_convention import chunk_momentum_attn
from momentum_fairseq.ops.key_value_cache import KeyValueCache
from momentum_fairseq.ops.linear_attention import (
    LinearState,
    causal_linear_attention,
    linear_attention,
    linear_attention_step,
)
from momentum_fairseq.ops.momentum_attention import (
    MomentumState,
    causal_momentum_attention,
    momentum_attention,
    momentum_attention_step,
)
from momentum_fairseq.ops.padding_free import padding_free_attention
from momentum_fairseq.ops.reference import recurrent_momentum_attention
from momentum_fairseq.ops.softmax_attention import causal_softmax_attention, softmax_attention
from momentum_fairseq.ops.source_memory import (
    KeysAndValues,
    ProjectedSource,
    WeightedSource,
    project_source,
    read_source,
    weighted_source,
)
from momentum_fairseq.ops.symmetric_momentum_attention import symmetric_momentum_attention

__all__ = [
    "FEATURE_MAPS",
    "AttentionPattern",
    "KeyValueCache",
    "KeysAndValues",
    "LinearState",
    "MomentumState",
    "ProjectedSource",
    "QueriesAndKeys",
    "WeightedSource",
    "causal_linear_attention",
    "causal_momentum_attention",
    "causal_softmax_attention",
    "chunk_momentum_attn",
    "corrupt",
    "elu_plus_one",
    "linear_attention",
    "linear_attention_step",
    "linear_pattern",
    "momentum_attention",
    "momentum_attention_step",
    "padding_free_attention",
    "product_pattern",
    "project_source",
    "read_source",
    "read_values",
    "recurrent_momentum_attention",
    "softmax_attention",
    "softmax_pattern",
    "symmetric_momentum_attention",
    "weighted_source",
]
