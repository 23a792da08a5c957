"""The best word of each row without most of the exact products: bfloat16 says which words it can't be.

A CPU that multiplies bfloat16 numbers does so twice as fast as float32 ones, and reads half as much memory. Of the rounded
factors ĥ and ŵ its logits x̂ are within

    |x̂ − h·w| ≤ ‖h − ĥ‖ ‖w‖ + ‖ĥ‖ ‖w − ŵ‖ + 2⁻⁸ |x̂|

of the exact ones, the last for x̂'s own rounding to 8 bits. A group of words whose upper bound is below another group's lower
bound doesn't hold the best one. The others are multiplied in float32, so that the answer is exact.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.modules.packed_linear import laid_out, product

GROUP = 16  # words that are kept or ruled out together, a power of 2
COLUMNS = 4096  # words a block, whose weights stay in a core's cache
MOST_GROUPS = 8  # of a row that are multiplied exactly; with more words in question the row is left to the plain product
SLACK = 1.05  # on the bound: for the sums' own rounding in float32, up to 3,000 features
FEWEST_WEIGHTS = 1 << 20  # with fewer the exact product takes no longer


class WordScreen(NamedTuple):
    """A vocabulary's weights in bfloat16.

    Block b holds words b·columns … (b+1)·columns − 1; its group g holds every (columns / GROUP)-th of them from the g-th on.

    blocks: the words' weights by oneDNN, and a bias that is −inf for symbols and past the last word; norms, losses: the largest
    ‖w‖ and ‖w − ŵ‖ of each group, `[G]`; columns: words a block; first_word: the ids below are symbols.
    """

    blocks: list[tuple[Tensor, Tensor]]
    norms: Tensor
    losses: Tensor
    columns: int
    first_word: int


def can_screen(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a screen of this output projection is quicker than its product."""
    large = weight.dtype == torch.float32 and weight.numel() >= FEWEST_WEIGHTS
    return large and bias is None and torch.cpu._is_avx512_bf16_supported()


def word_screen(weight: Tensor, first_word: int) -> WordScreen:
    """The screen of an output projection `[V,C]` without bias."""
    words = len(weight)
    count = -(-words // COLUMNS)
    columns = -(-words // (count * GROUP)) * GROUP
    weight = F.pad(weight, (0, 0, 0, count * columns - words))
    bias = torch.zeros(len(weight), dtype=torch.bfloat16)
    bias[:first_word] = bias[words:] = -torch.inf
    rounded = weight.bfloat16()
    packed = [laid_out(block) for block in rounded.split(columns)]
    norms, losses = (x.norm(dim=1).view(count, GROUP, -1).amax(1).flatten() for x in (weight, weight - rounded))
    return WordScreen(list(zip(packed, bias.split(columns), strict=True)), norms, losses, columns, first_word)


def screened_argmax(hidden: Tensor, weight: Tensor, screen: WordScreen) -> Tensor:
    """The first best word of each row of hidden wᵀ, symbols left out.

    Args:
        hidden: `[R,C]`, float32.
        weight: `[V,C]`, float32, of which the screen is.

    Returns:
        int64 `[R]`; V for a row of which the screen can't tell: it holds NaN or infinities, or most words are about as good.
    """
    rounded, words = hidden.bfloat16(), len(weight)
    highest = torch.cat([highest_of_groups(product(rounded, *block)) for block in screen.blocks], dim=1).float()  # [R,G]
    lost, left = (x.norm(dim=1, keepdim=True) for x in (hidden - rounded, rounded.float()))
    error = SLACK * (lost * screen.norms + left * screen.losses + 2**-8 * highest.abs())
    candidates = highest + error >= (highest - error).amax(1, keepdim=True)
    candidates &= candidates.sum(1, keepdim=True) <= MOST_GROUPS
    rows, groups = candidates.nonzero(as_tuple=True)

    stride = screen.columns // GROUP
    ids = (groups // stride * screen.columns + groups % stride).unsqueeze(1) + stride * torch.arange(GROUP)  # [P,GROUP]
    exact = weight.index_select(0, ids.clamp(max=words - 1).flatten()).unflatten(0, (-1, GROUP))
    logits = torch.linalg.vecdot(hidden[rows].unsqueeze(1), exact)
    logits = logits.masked_fill((ids < screen.first_word) | (ids >= words), -torch.inf)
    most = torch.full((len(hidden),), -torch.inf).scatter_reduce(0, rows, logits.amax(1), "amax")
    found = ids.masked_fill(logits < most[rows].unsqueeze(1), words).amin(1)
    return torch.full((len(hidden),), words).scatter_reduce(0, rows, found, "amin")


def highest_of_groups(logits: Tensor) -> Tensor:
    """`[R,columns]` → `[R, columns / GROUP]`, by halves: torch's maximum of two bfloat16 tensors is quicker than its `amax`."""
    columns = logits.shape[1]
    while logits.shape[1] * GROUP > columns:
        logits = torch.maximum(*logits.chunk(2, dim=1))
    return logits
