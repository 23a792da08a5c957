"""The corruption C(Y) of the denoising objective (Lee et al., EMNLP 2018, section 3.2)."""

import torch
from torch import Tensor

COPY, REPLACE, SWAP = range(3)


def corrupt(
    tokens: Tensor,
    *,
    rate: float,
    special: tuple[int, ...],
    ordinary: tuple[int, int],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Damage max(1, ⌊rate·T⌋) words of every sentence of T words.

    The positions are drawn without replacement and damaged one after the other, each in one of three ways with equal
    probability: copy the word over the next one, replace it by a uniformly drawn ordinary word, swap it with the next
    one. The last word has no next one and is replaced. A sentence without words stays as it is.

    Args:
        tokens: int64 `[B,T]`, padded on either side.
        rate: share of the words, in [0, 1].
        special: ids (BOS, EOS, padding) that are never touched and never produced.
        ordinary: first and one-past-last id to draw replacements from; holds no special id.
        generator: torch's default if None.

    Returns:
        int64 `[B,T]`, a new tensor of the same lengths.

    Raises:
        ValueError: a rate outside [0, 1], or an empty or special range of ordinary words.
    """
    first, end = ordinary
    if not 0 <= rate <= 1:
        raise ValueError(f"the corruption rate must be in [0, 1], got {rate}")
    if first >= end or any(first <= token < end for token in special):
        raise ValueError(f"ordinary words {ordinary} must be a non-empty range without the special ids {special}")
    shape, device = tokens.shape, tokens.device
    # One by one: a tensor of all of them would be copied from the host, and waited for.
    is_word = torch.ones_like(tokens, dtype=torch.bool)
    for token in special:
        is_word &= tokens != token
    has_next = is_word & torch.cat([is_word[:, 1:], is_word.new_zeros(shape[0], 1)], dim=1)
    lengths = is_word.sum(1)
    # In float64, and a little more: 0.29 · 100 is 28.999999999999996.
    rounds = torch.floor(lengths.double() * rate + 1e-9).long().clamp(min=1).minimum(lengths)

    order = torch.rand(shape, generator=generator, device=device).masked_fill(~is_word, 2).argsort(1)
    kinds = torch.randint(3, shape, generator=generator, device=device).masked_fill(~has_next, REPLACE)
    words = torch.randint(first, end, shape, generator=generator, device=device)

    corrupted = tokens.clone()
    for step in range(min(shape[1], max(1, int(shape[1] * rate + 1e-9)))):
        here = order[:, step : step + 1]
        after = (here + 1).clamp(max=shape[1] - 1)
        active = (step < rounds).unsqueeze(1)
        kind = kinds.gather(1, here)
        old_here, old_after = corrupted.gather(1, here), corrupted.gather(1, after)
        new_after = torch.where(active & (kind != REPLACE), old_here, old_after)
        new_here = torch.where(kind == REPLACE, words.gather(1, here), torch.where(kind == SWAP, old_after, old_here))
        corrupted.scatter_(1, after, new_after)
        corrupted.scatter_(1, here, torch.where(active, new_here, old_here))
    return corrupted
