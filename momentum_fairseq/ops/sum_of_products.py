"""Sums of products over many positions that keep float32's digits."""

from torch import Tensor

# On a CPU torch adds products of so narrow matrices up one by one: over 65,536 positions a sum is 4e-6 off then.
NARROW = 8
BLOCK = 256


def sum_of_products(x: Tensor, y: Tensor, onto: Tensor | None = None, scale: float = 1) -> Tensor:
    """scale · Σ_j x_j y_jᵀ, `[..,S,M]` and `[..,S,D]` → `[..,M,D]`; long sums of narrow matrices block by block.

    Args:
        onto: `[G,M,D]`, which the sum of x and y `[G,S,.]` is added to in place.
    """
    blocks = x.shape[-2] // BLOCK
    if blocks < 2 or min(x.shape[-1], y.shape[-1]) > NARROW or x.device.type != "cpu":
        if onto is not None:
            return onto.baddbmm_(x.transpose(1, 2), y, alpha=scale)
        total = x.transpose(-1, -2) @ y
    else:
        whole = blocks * BLOCK
        in_blocks = [z[..., :whole, :].unflatten(-2, (blocks, BLOCK)) for z in (x, y)]
        rest = x[..., whole:, :].transpose(-1, -2) @ y[..., whole:, :]
        total = (in_blocks[0].transpose(-1, -2) @ in_blocks[1]).sum(-3) + rest
    if onto is not None:
        return onto.add_(total, alpha=scale)
    return total if scale == 1 else total * scale
