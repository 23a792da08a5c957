"""Encoder and decoder layers around any attention kind, connection and feed-forward, norm after or before."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from momentum_fairseq.modules.attention_kinds import AttentionOptions, lookup
from momentum_fairseq.modules.connections import ConnectionOptions, ConnectionState, build_connection
from momentum_fairseq.modules.feed_forward import FEED_FORWARDS
from momentum_fairseq.modules.multihead_attention import MultiheadAttention

CHAINS = ("shared", "separate")


@dataclass(frozen=True)
class LayerOptions:
    """What a layer is made of.

    Attributes:
        embed_dim: C. ffn_dim: features inside the feed-forward. num_heads: H.
        dropout: on the output of every sub-layer.
        normalize_before: LayerNorm before each sub-layer instead of after it.
        feed_forward: a name in `FEED_FORWARDS`.
        chain: `shared`: one velocity runs through all attention sub-layers; `separate`: one for each of self, positional
            and cross attention.
    """

    embed_dim: int
    ffn_dim: int
    num_heads: int
    dropout: float = 0.1
    normalize_before: bool = False
    feed_forward: str = "highway"
    chain: str = "shared"
    attention: AttentionOptions = field(default_factory=AttentionOptions)
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)

    def __post_init__(self) -> None:
        if self.chain not in CHAINS:
            raise ValueError(f"unknown connection chain {self.chain!r}; choose from {', '.join(CHAINS)}")


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
        self.dropout = nn.Dropout(options.dropout)
        self.connection = build_connection(options.connection)
        self.feed_forward = lookup(FEED_FORWARDS, options.feed_forward, "feed-forward")(
            options.embed_dim, options.ffn_dim, dropout=options.dropout, normalize_before=options.normalize_before
        )

    def _attention(self) -> tuple[MultiheadAttention, nn.LayerNorm]:
        options = self.options
        return (
            MultiheadAttention(options.embed_dim, options.num_heads, options.attention),
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
        self.self_attn, self.self_attn_layer_norm = self._attention()

    def forward(self, x: Tensor, padding_mask: Tensor | None, velocities: Velocities) -> Tensor:
        """`[B,N,C]`, bool `[B,N]` (True = padding) → `[B,N,C]`; `velocities` (empty at the first layer) is updated."""
        x = self._connect(
            x, lambda y: self.self_attn(y, y, y, padding_mask), self.self_attn_layer_norm, "self", velocities
        )
        return self.feed_forward(x)


class LayerMemory(NamedTuple):
    """What a decoder layer reads that doesn't change from one refinement step to the next.

    source_k, source_v: `[B,H,S,D]`; source_padding: bool `[B,S]`; position_q, position_k: `[1,H,N,D]`.
    """

    source_k: Tensor
    source_v: Tensor
    source_padding: Tensor | None
    position_q: Tensor
    position_k: Tensor

    def select(self, sentences: Tensor) -> "LayerMemory":
        """The same for some of the sentences: int64 or bool `[B]` indices into the batch."""
        padding = None if self.source_padding is None else self.source_padding[sentences]
        return LayerMemory(
            self.source_k[sentences], self.source_v[sentences], padding, self.position_q, self.position_k
        )


class DecoderLayer(Layer):
    """Self-attention (not causal), positional attention, cross-attention, feed-forward (Lee et al. 2018, section 4).

    Positional attention has Q = K = sinusoids of the target positions, V = x (Gu et al. 2018).
    """

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options)
        self.self_attn, self.self_attn_layer_norm = self._attention()
        self.positional_attn, self.positional_attn_layer_norm = self._attention()
        self.encoder_attn, self.encoder_attn_layer_norm = self._attention()

    def memory(self, source: Tensor, source_padding: Tensor | None, positions: Tensor) -> LayerMemory:
        """Project an encoder output `[B,S,C]` and target sinusoids `[1,N,C]` once for all refinement steps."""
        return LayerMemory(
            self.encoder_attn.project_key(source),
            self.encoder_attn.project_value(source),
            source_padding,
            self.positional_attn.project_query(positions),
            self.positional_attn.project_key(positions),
        )

    def forward(self, x: Tensor, padding_mask: Tensor | None, memory: LayerMemory, velocities: Velocities) -> Tensor:
        """`[B,N,C]`, bool `[B,N]` (True = padding) → `[B,N,C]`; `velocities` (empty at the first layer) is updated."""

        def positional(y: Tensor) -> Tensor:
            attn = self.positional_attn
            return attn.attend(memory.position_q, memory.position_k, attn.project_value(y), padding_mask)

        def cross(y: Tensor) -> Tensor:
            attn = self.encoder_attn
            return attn.attend(attn.project_query(y), memory.source_k, memory.source_v, memory.source_padding)

        x = self._connect(
            x, lambda y: self.self_attn(y, y, y, padding_mask), self.self_attn_layer_norm, "self", velocities
        )
        x = self._connect(x, positional, self.positional_attn_layer_norm, "positional", velocities)
        x = self._connect(x, cross, self.encoder_attn_layer_norm, "cross", velocities)
        return self.feed_forward(x)
