"""A decoder that predicts word after word, behind fairseq's interface for beam search."""

import math
from typing import Any, NamedTuple

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor, nn

from momentum_fairseq.models.transformer_encoder import EncodedSource
from momentum_fairseq.modules import CausalDecoderLayer, Dropout, LayerOptions, SinusoidalPositions
from momentum_fairseq.modules.causal_decoder_layer import CausalLayerState, needed_causal_mask
from momentum_fairseq.modules.packed_copy import packed_copy
from momentum_fairseq.modules.packed_linear import JointLinear
from momentum_fairseq.modules.transformer_layer import Velocities, needed_mask

STATE = "layers"


class DecoderState(NamedTuple):
    """What step-by-step decoding keeps.

    layers: the state of each layer; read: words read so far, padding included;
    sentence: which sentence each row translates, int64 `[B]`; None in a language model;
    modules, words: the decoder's layers and projection to the vocabulary, or copies with packed weights.
    """

    layers: list[CausalLayerState]
    read: int
    sentence: Tensor | None
    modules: nn.Module
    words: nn.Module

    def reorder(self, order: Tensor) -> "DecoderState":
        """The state of other rows of the batch, int64 `[B']`."""
        sentence = None if self.sentence is None else self.sentence.index_select(0, order)
        same = sentence is None or torch.equal(sentence, self.sentence)
        return self._replace(layers=[layer.reorder(order, same_source=same) for layer in self.layers], sentence=sentence)


class CausalDecoder(FairseqIncrementalDecoder):
    """Embedding × √C + sinusoids, dropout, causal layers, projection to the vocabulary.

    Args:
        dictionary: of the target. embedding: the target embedding. output_projection: `[..., C]` → `[..., V]`.
        num_layers: L. options: what each layer is made of. positions: the table of sinusoids.
        max_target_positions: the longest target, in tokens. cross_attention: False in a language model.
    """

    def __init__(
        self,
        dictionary: Any,
        embedding: nn.Embedding,
        output_projection: nn.Linear,
        num_layers: int,
        options: LayerOptions,
        positions: SinusoidalPositions,
        *,
        max_target_positions: int,
        cross_attention: bool = True,
    ) -> None:
        super().__init__(dictionary)
        self.embedding, self.output_projection, self.positions = embedding, output_projection, positions
        self.words = JointLinear(self, "output_projection")  # packed while decoding, and an adapter in its place counts
        self.max_target_positions = max_target_positions
        self.scale = math.sqrt(options.embed_dim)
        self.dropout = Dropout(options.dropout, type(self).__name__)
        self.layers = nn.ModuleList(
            CausalDecoderLayer(options.at_layer(i, num_layers), cross_attention=cross_attention) for i in range(num_layers)
        )
        self.layer_norm = nn.LayerNorm(options.embed_dim) if options.normalize_before else nn.Identity()

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncodedSource | None = None,
        incremental_state: dict[str, Any] | None = None,
    ) -> tuple[Tensor, None]:
        """Logits of the next word at each position, `[B,N,V]`; with an incremental state, at the positions not read before.

        Args:
            prev_output_tokens: int64 `[B,N]`, padded on either side: always all the words so far.
            encoder_out: the encoded source; None in a language model.
            incremental_state: fairseq's dictionary, empty before the first word. The state of the words so far is kept in it.

        Raises:
            ValueError: an incremental state that has read all of the words already.
        """
        x, extra = self.extract_features(prev_output_tokens, encoder_out, incremental_state)
        if incremental_state is None:
            return self.output_layer(x), extra
        return self.get_incremental_state(incremental_state, STATE).words(x), extra

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncodedSource | None = None,
        incremental_state: dict[str, Any] | None = None,
    ) -> tuple[Tensor, None]:
        """As `forward`, before the projection: `[B,N,C]`."""
        padding_mask = prev_output_tokens.eq(self.embedding.padding_idx)
        if incremental_state is None:
            x = self._read(prev_output_tokens, padding_mask, encoder_out)
        else:
            state = self.get_incremental_state(incremental_state, STATE) or self._start(encoder_out)
            x, state = self._read_on(prev_output_tokens, padding_mask, state)
            self.set_incremental_state(incremental_state, STATE, state)
        return self.layer_norm(x), None

    def step(self, words: Tensor, incremental_state: dict[str, Any]) -> Tensor:
        """Logits of the word after one more word in each row, none of which has padding: int64 `[B]` → `[B,V]`.

        What `forward` gives for its last position, at a cost that doesn't grow with the words so far, attention's own left aside:
        `forward` looks through them for padding.

        Args:
            incremental_state: as of `forward`, after one word at least.
        """
        state = self.get_incremental_state(incremental_state, STATE)
        x = self.scale * self.embedding(words).unsqueeze(1)
        x = self.dropout(x + self.positions(state.read + 1)[state.read].to(x.dtype))
        x, layers = step_layers(x, None, state)
        self.set_incremental_state(incremental_state, STATE, state._replace(layers=layers, read=state.read + 1))
        return state.words(self.layer_norm(x)).squeeze(1)

    def output_layer(self, features: Tensor) -> Tensor:
        """`[..., C]` → logits `[..., V]`."""
        return self.output_projection(features)

    def reorder_incremental_state(self, incremental_state: dict[str, Any], new_order: Tensor) -> None:
        """Move the hypotheses of a beam search: row i becomes what row new_order[i] was, int64 `[B']`."""
        state = self.get_incremental_state(incremental_state, STATE)
        if state is not None:
            self.set_incremental_state(incremental_state, STATE, state.reorder(new_order))

    def make_generation_fast_(self, need_attn: str | bool | None = None, **kwargs: Any) -> None:
        """What fairseq calls before decoding.

        Raises:
            ValueError: --print-alignment, which wants the weights of cross-attention.
        """
        if need_attn:
            raise ValueError("--print-alignment: the decoder keeps no attention weights, most kinds never form any; leave it out")

    def max_positions(self) -> int:
        """The longest target, in tokens."""
        return self.max_target_positions

    def _read(self, tokens: Tensor, padding_mask: Tensor, encoder_out: EncodedSource | None) -> Tensor:
        """All words at once: int64 and bool `[B,N]` → `[B,N,C]`."""
        x, mask, velocities = self._embed(tokens, padding_mask, 0), needed_causal_mask(padding_mask), Velocities()
        source, source_mask = source_of(encoder_out)
        for layer in self.layers:
            x = layer(x, mask, source, source_mask, velocities)
        return x

    def _start(self, encoder_out: EncodedSource | None) -> DecoderState:
        """The state before the first word: the source is read once."""
        source, source_mask = source_of(encoder_out)
        sentence = None if encoder_out is None else encoder_out.sentence
        layers = [layer.start(source, source_mask) for layer in self.layers]
        return DecoderState(layers, 0, sentence, packed_copy(self.layers), packed_copy(self.words))

    def _read_on(self, tokens: Tensor, padding_mask: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """The words that the state has not read: int64 and bool `[B,N]` → `[B,N−read,C]` and the new state."""
        if state.read >= tokens.shape[1]:
            raise ValueError(
                f"{state.read} words are read already and {tokens.shape[1]} were given; give all the words so far, not the "
                f"last one alone, and a new incremental state for other words"
            )
        x = self._embed(tokens, padding_mask, state.read)
        x, layers = step_layers(x, needed_mask(padding_mask[:, state.read :]), state)
        return x, state._replace(layers=layers, read=tokens.shape[1])

    def _embed(self, tokens: Tensor, padding_mask: Tensor, first: int) -> Tensor:
        """Columns `first` and later of tokens `[B,N]` → `[B,N−first,C]`."""
        x = self.scale * self.embedding(tokens[:, first:])
        return self.dropout(x + self.positions.of_real_tokens(padding_mask, first).to(x.dtype))


def step_layers(x: Tensor, padding_mask: Tensor | None, state: DecoderState) -> tuple[Tensor, list[CausalLayerState]]:
    """The next N positions `[B,N,C]` with their mask bool `[B,N]` through all layers → `[B,N,C]` and the layers' new states."""
    velocities, states = Velocities(), []
    for layer, layer_state in zip(state.modules, state.layers, strict=True):
        x, layer_state = layer.step(x, padding_mask, layer_state, velocities)
        states.append(layer_state)
    return x, states


def source_of(encoder_out: EncodedSource | None) -> tuple[Tensor | None, Tensor | None]:
    """The encoder's output `[B,S,C]` and its mask, None where it masks nothing; no source in a language model."""
    return (None, None) if encoder_out is None else (encoder_out.hidden, needed_mask(encoder_out.padding_mask))
