"""The attention that the tests of kinds are about, and the options that they go through."""

import torch

from momentum_fairseq.modules import ATTENTION_KINDS, AttentionOptions, MultiheadAttention

KINDS = sorted(ATTENTION_KINDS)
VARIANTS = [{"kind": kind} for kind in KINDS]
VARIANTS += [{"kind": "momentum", "momentum_learned": True}, {"kind": "momentum", "feature_map": "taylor"}]


def attention(kind: str, dim: int = 12, heads: int = 2, **options) -> MultiheadAttention:
    torch.manual_seed(1)
    return MultiheadAttention(dim, heads, AttentionOptions(kind=kind, **options)).double()
