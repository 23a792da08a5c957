"""The layer of a decoder that predicts word after word, for whole sentences (training) and step by step (decoding)."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from momentum_fairseq.modules.causal_attention import CausalSelfAttention
from momentum_fairseq.modules.multihead_attention import MultiheadAttention
from momentum_fairseq.modules.transformer_layer import Layer, LayerOptions, Velocities


def needed_causal_mask(padding_mask: Tensor) -> Tensor | None:
    """The mask `[B,N]`, or None where no real token follows padding: causal attention doesn't read what comes later anyway."""
    return padding_mask if bool((padding_mask[:, :-1] & ~padding_mask[:, 1:]).any()) else None


class CausalLayerState(NamedTuple):
    """What a layer keeps between two steps: of the words so far, and of the source (None without one)."""

    words: Any
    source: Any

    def reorder(self, order: Tensor, *, same_source: bool) -> "CausalLayerState":
        """The state of other rows of the batch, int64 `[B']`; the source stays where each row still has its own."""
        source = self.source if same_source or self.source is None else self.source.reorder(order)
        return CausalLayerState(self.words.reorder(order), source)


class CausalDecoderLayer(Layer):
    """Causal self-attention, cross-attention (left out in a language model), feed-forward (Vaswani et al. 2017, section 3.1).

    The connection's velocity runs through the sub-layers of one position and the layers above it; it has no history in time.
    """

    def __init__(self, options: LayerOptions, *, cross_attention: bool = True) -> None:
        super().__init__(options)
        sizes = options.embed_dim, options.num_heads, options.attention
        self.self_attn, self.self_attn_layer_norm = CausalSelfAttention(*sizes), nn.LayerNorm(options.embed_dim)
        self.encoder_attn = MultiheadAttention(*sizes) if cross_attention else None
        self.encoder_attn_layer_norm = nn.LayerNorm(options.embed_dim) if cross_attention else None

    def forward(
        self,
        x: Tensor,
        padding_mask: Tensor | None,
        source: Tensor | None,
        source_padding: Tensor | None,
        velocities: Velocities,
    ) -> Tensor:
        """All positions at once.

        Args:
            x: `[B,N,C]`. padding_mask: bool `[B,N]`, True = padding.
            source, source_padding: the encoder's output `[B,S,C]` and bool `[B,S]`; None without cross-attention.
            velocities: of the layers below, updated.

        Returns:
            `[B,N,C]`.
        """
        return self._sublayers(
            x,
            lambda y: self.self_attn(y, padding_mask),
            lambda y: self.encoder_attn(y, source, source, source_padding),
            velocities,
        )

    def start(self, source: Tensor | None, source_padding: Tensor | None) -> CausalLayerState:
        """The state before the first word: the source `[B,S,C]` and its mask bool `[B,S]` are read once."""
        memory = None if self.encoder_attn is None else self.encoder_attn.remember(source, source_padding)
        return CausalLayerState(None, memory)

    def step(
        self, x: Tensor, padding_mask: Tensor | None, state: CausalLayerState, velocities: Velocities
    ) -> tuple[Tensor, CausalLayerState]:
        """The next N positions `[B,N,C]`, with their mask bool `[B,N]` → `[B,N,C]` and the new state."""
        words = state.words

        def self_attention(y: Tensor) -> Tensor:
            nonlocal words
            out, words = self.self_attn.step(y, padding_mask, words)
            return out

        x = self._sublayers(x, self_attention, lambda y: self.encoder_attn.recall(y, state.source), velocities)
        return x, CausalLayerState(words, state.source)

    def _sublayers(
        self,
        x: Tensor,
        self_attention: Callable[[Tensor], Tensor],
        cross_attention: Callable[[Tensor], Tensor],
        velocities: Velocities,
    ) -> Tensor:
        x = self._connect(x, self_attention, self.self_attn_layer_norm, "self", velocities)
        if self.encoder_attn is not None:
            x = self._connect(x, cross_attention, self.encoder_attn_layer_norm, "cross", velocities)
        return self.feed_forward(x)
