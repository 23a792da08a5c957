"""The encoder of the iterative-refinement model (Lee et al., EMNLP 2018)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momentum_fairseq.modules import Dropout, EncoderLayer, LayerOptions, SinusoidalPositions
from momentum_fairseq.modules.transformer_layer import Velocities, needed_mask


class EncoderOutput(NamedTuple):
    """What decoders and the length predictor read.

    layers: the output of every layer, normalised, `[B,S,C]` each; embedding: the input with source positions `[B,S,C]`;
    padding_mask: bool `[B,S]`, True = padding; lengths: source words without EOS, int64 `[B]`;
    momenta: for each layer the adaptive β̃ `[B,S,1]` of its sub-layers; none with other connections, at the start of a chain, and
    of sentences that were repeated or selected.
    """

    layers: list[Tensor]
    embedding: Tensor
    padding_mask: Tensor
    lengths: Tensor
    momenta: list[list[Tensor]]

    def repeat(self, times: int) -> "EncoderOutput":
        """Every sentence `times` times, copies side by side."""
        return EncoderOutput(
            [layer.repeat_interleave(times, dim=0) for layer in self.layers],
            self.embedding.repeat_interleave(times, dim=0),
            self.padding_mask.repeat_interleave(times, dim=0),
            self.lengths.repeat_interleave(times, dim=0),
            [],
        )

    def select(self, sentences: Tensor) -> "EncoderOutput":
        """Some of the sentences, int64 `[B']`, without the padding that they share at the edges."""
        padding_mask = self.padding_mask[sentences]
        real = (~padding_mask).any(0).nonzero()
        columns = slice(int(real[0]), int(real[-1]) + 1)
        return EncoderOutput(
            [layer[sentences, columns] for layer in self.layers],
            self.embedding[sentences, columns],
            padding_mask[:, columns],
            self.lengths[sentences],
            [],
        )


class NatEncoder(nn.Module):
    """Embedding × √C + sinusoids, dropout, layers of self-attention and feed-forward; all layer outputs are kept.

    Decoder layers read each of them: with the norm before, each goes through a LayerNorm of its own on its way there.

    Args:
        embedding: the source embedding. num_layers: L. options: what each layer is made of.
        positions: the table of sinusoids. eos: the id that ends a source sentence.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        num_layers: int,
        options: LayerOptions,
        positions: SinusoidalPositions,
        *,
        eos: int,
    ) -> None:
        super().__init__()
        self.embedding, self.positions, self.eos = embedding, positions, eos
        self.scale = math.sqrt(options.embed_dim)
        self.dropout = Dropout(options.dropout, type(self).__name__)
        self.layers = nn.ModuleList(EncoderLayer(options.at_layer(i, num_layers)) for i in range(num_layers))
        norms = (nn.LayerNorm(options.embed_dim) if options.normalize_before else nn.Identity() for _ in range(num_layers))
        self.layer_norms = nn.ModuleList(norms)

    def forward(self, src_tokens: Tensor) -> EncoderOutput:
        """int64 `[B,S]`, padded on either side → `EncoderOutput`."""
        padding_mask = src_tokens.eq(self.embedding.padding_idx)
        embedding = self.scale * self.embedding(src_tokens) + self.positions.of_real_tokens(padding_mask)
        x = self.dropout(embedding)
        outputs, momenta, velocities = [], [], Velocities()
        mask = needed_mask(padding_mask)
        for layer, layer_norm in zip(self.layers, self.layer_norms, strict=True):
            x = layer(x, mask, velocities)
            outputs.append(layer_norm(x))
            momenta.append(velocities.take_momenta())
        lengths = (~padding_mask & src_tokens.ne(self.eos)).sum(1)
        return EncoderOutput(outputs, embedding, padding_mask, lengths, momenta)


def mean_momentum(momenta: list[Tensor], padding_mask: Tensor) -> Tensor:
    """The mean of a layer's adaptive β̃, `[B,N,1]` each, over its sub-layers and the real tokens: a scalar, detached."""
    real = (~padding_mask).unsqueeze(-1)
    stacked = torch.stack([momentum.detach().float() for momentum in momenta])  # [sub-layers,B,N,1]
    return (stacked * real).sum() / (real.sum() * len(momenta))
