"""Encoder and decoder layers around any attention kind, connection and feed-forward, norm after or before."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from momentum_fairseq.modules.attention_kind import AttentionOptions
from momentum_fairseq.modules.connections import ConnectionOptions, ConnectionState, build_connection
from momentum_fairseq.modules.dropout import Dropout
from momentum_fairseq.modules.feed_forward import FEED_FORWARDS
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.modules.multihead_attention import MultiheadAttention

CHAINS = ("shared", "separate")


@dataclass(frozen=True)
class LayerOptions:
    """What a layer is made of.

    Attributes:
        embed_dim: C. ffn_dim: features inside the feed-forward. num_heads: H.
        dropout: on the output of every sub-layer.
        normalize_before: LayerNorm before each sub-layer instead of after it.
        feed_forward: a name in `FEED_FORWARDS`. activation: inside it, a name in `ACTIVATIONS`.
        chain: `shared`: one velocity runs through all attention sub-layers; `separate`: one for each of self, positional
            and cross attention.
    """

    embed_dim: int
    ffn_dim: int
    num_heads: int
    dropout: float = 0.1
    normalize_before: bool = False
    feed_forward: str = "highway"
    activation: str = "relu"
    chain: str = "shared"
    attention: AttentionOptions = field(default_factory=AttentionOptions)
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)

    def __post_init__(self) -> None:
        if self.chain not in CHAINS:
            raise ValueError(f"unknown connection chain {self.chain!r}; choose from {', '.join(CHAINS)}")

    def at_layer(self, layer: int, layers: int) -> "LayerOptions":
        """The options of one layer of a stack, counted from 0: some attention kinds differ from layer to layer."""
        place = replace(self.attention.place, layer=layer, layers=layers)
        return replace(self, attention=replace(self.attention, place=place))


def needed_mask(padding_mask: Tensor) -> Tensor | None:
    """The mask, or None where it masks nothing: attention is cheaper without one, most of all at batch 1."""
    return padding_mask if bool(padding_mask.any()) else None


class Velocities(dict[str, ConnectionState | None]):
    """The state of each chain of a stack, by name; empty before the first layer.

    momenta: the adaptive β̃ `[B,N,1]` of every sub-layer that computed one since they were last taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.momenta: list[Tensor] = []

    def take_momenta(self) -> list[Tensor]:
        """The β̃ collected so far, which are then forgotten: after each layer, those of this layer."""
        taken, self.momenta = self.momenta, []
        return taken


class Layer(nn.Module):
    """A stack of attention sub-layers in a shared connection, then a feed-forward."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__()
        self.options = options
        self.dropout = Dropout(options.dropout, type(self).__name__)
        self.connection = build_connection(options.connection)
        self.feed_forward = lookup(FEED_FORWARDS, options.feed_forward, "feed-forward")(
            options.embed_dim,
            options.ffn_dim,
            dropout=options.dropout,
            normalize_before=options.normalize_before,
            activation=options.activation,
        )

    def _attention(self, *, self_attention: bool) -> tuple[MultiheadAttention, nn.LayerNorm]:
        options = self.options
        return (
            MultiheadAttention(options.embed_dim, options.num_heads, options.attention, self_attention=self_attention),
            nn.LayerNorm(options.embed_dim),
        )

    def _connect(
        self, x: Tensor, sublayer: Callable[[Tensor], Tensor], norm: nn.LayerNorm, name: str, velocities: Velocities
    ) -> Tensor:
        """One attention sub-layer with dropout, norm and connection; the chain's state in `velocities` moves on."""
        before = self.options.normalize_before
        chain = name if self.options.chain == "separate" else "shared"
        output = self.dropout(sublayer(norm(x) if before else x))
        x, state = self.connection(x, output, velocities.get(chain))
        velocities[chain] = state
        if state is not None and state.momentum is not None:
            velocities.momenta.append(state.momentum)
        return x if before else norm(x)


class EncoderLayer(Layer):
    """Self-attention and feed-forward."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options)
        self.self_attn, self.self_attn_layer_norm = self._attention(self_attention=True)

    def forward(self, x: Tensor, padding_mask: Tensor | None, velocities: Velocities) -> Tensor:
        """`[B,N,C]`, bool `[B,N]` (True = padding) → `[B,N,C]`; `velocities` (empty at the first layer) is updated."""
        x = self._connect(
            x, lambda y: self.self_attn(y, y, y, padding_mask), self.self_attn_layer_norm, "self", velocities
        )
        return self.feed_forward(x)


class LayerMemory(NamedTuple):
    """What a decoder layer reads that doesn't change from one refinement step to the next, as its attention kind keeps it.

    source: of cross-attention's keys and values; pattern: of positional attention's queries and keys.
    """

    source: Any
    pattern: Any

    def reorder(self, order: Tensor) -> "LayerMemory":
        """The memory of other rows of the batch, int64 `[B']`."""
        return LayerMemory(self.source.reorder(order), self.pattern.reorder(order))


class DecoderLayer(Layer):
    """Self-attention (not causal), positional attention, cross-attention, feed-forward (Lee et al. 2018, section 4).

    Positional attention has Q = K = sinusoids of the target positions, V = x (Gu et al. 2018).
    """

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options)
        self.self_attn, self.self_attn_layer_norm = self._attention(self_attention=True)
        self.positional_attn, self.positional_attn_layer_norm = self._attention(self_attention=True)
        self.encoder_attn, self.encoder_attn_layer_norm = self._attention(self_attention=False)

    def memory(
        self,
        source: Tensor,
        source_padding: Tensor | None,
        positions: Tensor,
        target_padding: Tensor | None,
        *,
        many_reads: bool = True,
    ) -> LayerMemory:
        """Read an encoder output `[B,S,C]` and target sinusoids `[1,N,C]` with their masks once for all refinement steps.

        many_reads: whether there are several of them, as of the second decoder.
        """
        return LayerMemory(
            self.encoder_attn.remember(source, source_padding, many_reads=many_reads),
            self.positional_attn.pattern(positions, target_padding),
        )

    def forward(self, x: Tensor, padding_mask: Tensor | None, memory: LayerMemory, velocities: Velocities) -> Tensor:
        """`[B,N,C]`, bool `[B,N]` (True = padding) → `[B,N,C]`; `velocities` (empty at the first layer) is updated."""
        x = self._connect(
            x, lambda y: self.self_attn(y, y, y, padding_mask), self.self_attn_layer_norm, "self", velocities
        )
        x = self._connect(
            x,
            lambda y: self.positional_attn.weigh(y, memory.pattern),
            self.positional_attn_layer_norm,
            "positional",
            velocities,
        )
        x = self._connect(
            x, lambda y: self.encoder_attn.recall(y, memory.source), self.encoder_attn_layer_norm, "cross", velocities
        )
        return self.feed_forward(x)
