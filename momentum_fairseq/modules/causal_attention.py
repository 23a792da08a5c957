"""Self-attention of a decoder that predicts word after word."""

from typing import Any

from torch import Tensor

from momentum_fairseq.modules.attention_kind import AttentionKind, AttentionOptions
from momentum_fairseq.modules.attention_kinds import ATTENTION_KINDS
from momentum_fairseq.modules.multihead_attention import MultiheadAttention


class CausalSelfAttention(MultiheadAttention):
    """Every position reads itself and those before it: all positions at once, or the next ones with the state of the others.

    Linear and momentum attention keep a state of constant size, softmax attention all keys and values.

    Raises:
        ValueError: as `MultiheadAttention`, or a kind that has no causal form.
    """

    def __init__(self, embed_dim: int, num_heads: int, options: AttentionOptions) -> None:
        super().__init__(embed_dim, num_heads, options, self_attention=True)
        if not has_causal_form(type(self.attention)):
            causal = [name for name, kind in sorted(ATTENTION_KINDS.items()) if has_causal_form(kind)]
            raise ValueError(f"{options.kind} attention has no causal form; choose from {', '.join(causal)}")

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """`[B,N,C]`, bool `[B,N]` (True = padding) → `[B,N,C]`."""
        q, k, v = self.project_query(x), self.project_key(x), self.project_value(x)
        return self._join(self.attention.causal(q, k, v, key_padding_mask))

    def step(self, x: Tensor, key_padding_mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """The next N positions `[B,N,C]` with their mask, and the state of those before (None = none) → `[B,N,C]`, new state."""
        if self.qkv_proj.packed is not None:
            q, k, v = map(self._split, self.qkv_proj(x).chunk(3, dim=-1))
        else:
            q, k, v = self.project_query(x), self.project_key(x), self.project_value(x)
        out, state = self.attention.step(q, k, v, key_padding_mask, state)
        return self._join(out), state


def has_causal_form(kind: Any) -> bool:
    """Whether a class of attention computes `causal`."""
    return kind.causal is not AttentionKind.causal
