"""Target length as an offset from the source length (Lee et al. 2018, section 4)."""

import torch
from torch import Tensor, nn

from momentum_fairseq.ops.mean_of_real import mean_of_real


class LengthPredictor(nn.Module):
    """Classify clamp(T − S, −R, R) from the mean encoder outputs of the real source tokens.

    The encoder outputs are detached: the length loss trains the classifier alone.

    Args:
        embed_dim: C. num_layers: L encoder outputs are read. max_offset: R; there are 2R + 1 classes.

    Raises:
        ValueError: a negative max_offset.
    """

    def __init__(self, embed_dim: int, num_layers: int, max_offset: int = 20) -> None:
        super().__init__()
        if max_offset < 0:
            raise ValueError(f"the largest length offset (--max-length-offset) must not be negative, got {max_offset}")
        self.max_offset = max_offset
        self.classifier = nn.Linear(embed_dim * num_layers, 2 * max_offset + 1)

    def forward(self, layers: list[Tensor], padding_mask: Tensor) -> Tensor:
        """L tensors `[B,S,C]`, bool `[B,S]` (True = padding) → logits `[B, 2R+1]`."""
        return self.classifier(mean_of_real(torch.cat([layer.detach() for layer in layers], dim=-1), padding_mask))

    def target(self, source_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """Word counts int64 `[B]`, `[B]` → the class of each sentence, int64 `[B]`."""
        return (target_lengths - source_lengths).clamp(-self.max_offset, self.max_offset) + self.max_offset

    def lengths(self, logits: Tensor, source_lengths: Tensor, beam: int = 1, *, max_length: int) -> Tensor:
        """The `beam` most probable lengths, best first, each in [1, max_length]: int64 `[B, beam]`.

        Of the offsets that are clamped to one length the most probable stands for it. Lengths differ; a sentence that has fewer
        of them than `beam` gets some more than once, behind all others.

        Raises:
            ValueError: a beam of more lengths than there are classes.
        """
        if beam > logits.shape[1]:
            raise ValueError(f"--iter-decode-with-beam {beam}: the model tells {logits.shape[1]} lengths apart")
        ranked = logits.argsort(dim=1, descending=True, stable=True)
        lengths = (source_lengths.unsqueeze(1) + ranked - self.max_offset).clamp(1, max_length)
        repeats = (lengths.unsqueeze(2) == lengths.unsqueeze(1)).tril(-1).any(2)  # [B, 2R+1]
        return lengths.gather(1, repeats.byte().argsort(dim=1, stable=True)[:, :beam])
