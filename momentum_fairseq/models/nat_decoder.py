"""A decoder of the iterative-refinement model (Lee et al., EMNLP 2018): used twice, with weights of its own each time."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from momentum_fairseq.models.nat_encoder import EncoderOutput
from momentum_fairseq.modules import DecoderLayer, Dropout, LayerOptions, SinusoidalPositions
from momentum_fairseq.modules.transformer_layer import LayerMemory, Velocities, needed_mask


class DecoderOutput(NamedTuple):
    """hidden: the last layer's output, normalised, `[B,N,C]`; momenta: as in `EncoderOutput`."""

    hidden: Tensor
    momenta: list[list[Tensor]]


class DecoderMemory(NamedTuple):
    """What a decoder reads that stays the same in every refinement step.

    layers: of each layer; padding_mask: the target's, bool `[B,N]`, None where it masks nothing.
    """

    layers: list[LayerMemory]
    padding_mask: Tensor | None

    def reorder(self, order: Tensor) -> "DecoderMemory":
        """The memory of other rows of the batch, int64 `[B']`."""
        padding_mask = None if self.padding_mask is None else self.padding_mask[order]
        return DecoderMemory([layer.reorder(order) for layer in self.layers], padding_mask)


class NatDecoder(nn.Module):
    """Layers of self-, positional and cross-attention; layer l attends to the output of encoder layer l.

    Args:
        num_layers: L, as in the encoder. options: what each layer is made of. positions: the table of sinusoids.
    """

    def __init__(self, num_layers: int, options: LayerOptions, positions: SinusoidalPositions) -> None:
        super().__init__()
        self.positions = positions
        self.dropout = Dropout(options.dropout, type(self).__name__)
        self.layers = nn.ModuleList(DecoderLayer(options.at_layer(i, num_layers)) for i in range(num_layers))
        # With the norm before, what goes back into the next refinement step would grow from step to step.
        self.layer_norm = nn.LayerNorm(options.embed_dim) if options.normalize_before else nn.Identity()

    def memory(self, source: EncoderOutput, padding_mask: Tensor, *, many_reads: bool = True) -> DecoderMemory:
        """What layers read, many times or once, of the source and of the target's positions, bool `[B,N]` (True = padding)."""
        positions = self.positions(padding_mask.shape[1]).to(source.embedding.dtype).unsqueeze(0)  # [1,N,C]
        source_mask, target_mask = needed_mask(source.padding_mask), needed_mask(padding_mask)
        layers = [
            layer.memory(output, source_mask, positions, target_mask, many_reads=many_reads)
            for layer, output in zip(self.layers, source.layers, strict=True)
        ]
        return DecoderMemory(layers, target_mask)

    def forward(self, x: Tensor, memory: DecoderMemory) -> DecoderOutput:
        """Inputs without positions `[B,N,C]` → `DecoderOutput`. The velocity of the connection starts afresh."""
        x = self.dropout(x + self.positions(x.shape[1]).to(x.dtype))
        momenta, velocities = [], Velocities()
        for layer, layer_memory in zip(self.layers, memory.layers, strict=True):
            x = layer(x, memory.padding_mask, layer_memory, velocities)
            momenta.append(velocities.take_momenta())
        return DecoderOutput(self.layer_norm(x), momenta)


def uniform_copy(source: EncoderOutput, target_lengths: Tensor, length: int) -> Tensor:
    """The source embedding at the uniformly copied position round(i (S−1)/(T−1)) of each target position i.

    S counts the source words without EOS, T the target words; a target of one word copies the first source word. Real source
    positions are copied, whichever side the padding is on. Positions past a sentence's T repeat its last word.

    Args:
        source: B sentences. target_lengths: int64 `[B]`. length: N, the padded target length.

    Returns:
        `[B,N,C]`.
    """
    first = (~source.padding_mask).long().argmax(1)
    last = (source.lengths - 1).clamp(min=0).unsqueeze(1)
    steps = torch.arange(length, device=target_lengths.device).unsqueeze(0)
    spans = (target_lengths - 1).clamp(min=1).unsqueeze(1)
    position = ((2 * steps * last + spans) // (2 * spans)).minimum(last)  # [B,N], rounded half up, exact in integers
    index = (first.unsqueeze(1) + position).unsqueeze(-1).expand(-1, -1, source.embedding.shape[2])
    return source.embedding.gather(1, index)
