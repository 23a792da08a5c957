"""Attention kinds by name. A new kind is one file in `ops/`, one beside this, with a small class, and one line in
`ATTENTION_KINDS`.
"""

from collections.abc import Callable

from momentum_fairseq.modules.attention_kind import AttentionKind, AttentionOptions
from momentum_fairseq.modules.linear_kind import LinearAttention
from momentum_fairseq.modules.linformer_kind import LinformerAttention
from momentum_fairseq.modules.momentum_kind import MomentumAttention, SymmetricMomentumAttention
from momentum_fairseq.modules.nystrom_kind import NystromAttention
from momentum_fairseq.modules.performer_kind import PerformerAttention
from momentum_fairseq.modules.reformer_kind import ReformerAttention
from momentum_fairseq.modules.rfa_kind import RandomFeatureAttention
from momentum_fairseq.modules.softmax_kind import SoftmaxAttention
from momentum_fairseq.modules.transnormer_kind import TransnormerAttention

ATTENTION_KINDS: dict[str, Callable[[int, AttentionOptions], AttentionKind]] = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "momentum": MomentumAttention,
    "symmetric_momentum": SymmetricMomentumAttention,
    "performer": PerformerAttention,
    "rfa": RandomFeatureAttention,
    "linformer": LinformerAttention,
    "nystrom": NystromAttention,
    "reformer": ReformerAttention,
    "transnormer": TransnormerAttention,
}
