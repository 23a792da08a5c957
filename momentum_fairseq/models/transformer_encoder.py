"""The encoder of `momentum_transformer` (Vaswani et al. 2017, section 3.1)."""

import math
from typing import Any, NamedTuple

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn

from momentum_fairseq.modules import Dropout, EncoderLayer, LayerOptions, SinusoidalPositions
from momentum_fairseq.modules.transformer_layer import Velocities, needed_mask


class EncodedSource(NamedTuple):
    """What the decoder reads.

    hidden: `[B,S,C]`; padding_mask: bool `[B,S]`, True = padding;
    sentence: int64 `[B]`, which sentence of the encoder's batch a row is: beam search makes several rows of one.
    """

    hidden: Tensor
    padding_mask: Tensor
    sentence: Tensor


class TransformerEncoder(FairseqEncoder):
    """Embedding × √C + sinusoids, dropout, layers of self-attention and feed-forward.

    Args:
        dictionary: of the source. embedding: the source embedding. num_layers: L. options: what each layer is made of.
        positions: the table of sinusoids. max_source_positions: the longest source, in tokens.
    """

    def __init__(
        self,
        dictionary: Any,
        embedding: nn.Embedding,
        num_layers: int,
        options: LayerOptions,
        positions: SinusoidalPositions,
        *,
        max_source_positions: int,
    ) -> None:
        super().__init__(dictionary)
        self.embedding, self.positions, self.max_source_positions = embedding, positions, max_source_positions
        self.scale = math.sqrt(options.embed_dim)
        self.dropout = Dropout(options.dropout, type(self).__name__)
        self.layers = nn.ModuleList(EncoderLayer(options.at_layer(i, num_layers)) for i in range(num_layers))
        self.layer_norm = nn.LayerNorm(options.embed_dim) if options.normalize_before else nn.Identity()

    def forward(self, src_tokens: Tensor, src_lengths: Tensor | None = None) -> EncodedSource:
        """int64 `[B,S]`, padded on either side; the lengths are not used, padding tells them."""
        padding_mask = src_tokens.eq(self.embedding.padding_idx)
        x = self.scale * self.embedding(src_tokens)
        x = self.dropout(x + self.positions.of_real_tokens(padding_mask).to(x.dtype))
        mask, velocities = needed_mask(padding_mask), Velocities()
        for layer in self.layers:
            x = layer(x, mask, velocities)
        return EncodedSource(self.layer_norm(x), padding_mask, torch.arange(len(x), device=x.device))

    def reorder_encoder_out(self, encoder_out: EncodedSource, new_order: Tensor) -> EncodedSource:
        """The same for other rows of the batch, int64 `[B']`."""
        sentence = encoder_out.sentence.index_select(0, new_order)
        if torch.equal(sentence, encoder_out.sentence):  # hypotheses changed places, each with one of its own sentence
            return encoder_out
        hidden, padding_mask = (x.index_select(0, new_order) for x in encoder_out[:2])
        return EncodedSource(hidden, padding_mask, sentence)

    def max_positions(self) -> int:
        """The longest source, in tokens."""
        return self.max_source_positions
