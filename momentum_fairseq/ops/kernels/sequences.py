"""Where a sequence lies in a batch, which of its keys are real, and what they weigh."""

import triton
import triton.language as tl

from momentum_fairseq.ops.kernels.tiles import one_minus_power


@triton.jit
def sequence(bounds, b, length):
    """Batch row, first position and length of sequence b: row b of a padded batch, or what `bounds` `[n+1]` cut out of row 0."""
    row, start = b, b * 0
    if bounds is not None:
        row, start = b * 0, tl.minimum(tl.maximum(tl.load(bounds + b), 0), length).to(tl.int64)
        length = (tl.minimum(tl.maximum(tl.load(bounds + b + 1), start), length) - start).to(tl.int32)
    return row, start, length


@triton.jit
def head(x, strides, row, h, start):
    """Pointer to the matrix of a head of a sequence in x `[B,H,N,D]`."""
    return x + row * strides[0] + h * strides[1] + start * strides[2]


@triton.jit
def count_real(padding, first, last, BLOCK: tl.constexpr):
    """How many of the keys first … last − 1 are real."""
    count = last - first
    if padding is not None:
        count = count * 0
        for j in range(first, last, BLOCK):
            position = j + tl.arange(0, BLOCK)
            count += tl.sum((tl.load(padding + position, mask=position < last, other=1) == 0).to(tl.int32), 0)
    return count


@triton.jit
def key_weights(weights, padding, first, last, remaining, log_beta, scale, KEYS: tl.constexpr):
    """Weights of the keys first … first + KEYS − 1, where they are real, and how many of `remaining` real ones come after.

    The weights are read, or where there are none to read they are γ (1 − β^c) / (1 − β) = scale (1 − β^c), with c real keys at
    a key's position and after it.
    """
    position = first + tl.arange(0, KEYS)
    real = position < last
    if padding is not None:
        real = real & (tl.load(padding + position, mask=real, other=1) == 0)
    if weights is not None:
        w = tl.load(weights + position, mask=real, other=0.0)
    else:
        one = real.to(tl.int32)
        count = remaining - tl.cumsum(one, 0) + one
        w = tl.where(real, scale * one_minus_power(count, log_beta), 0.0)
        remaining -= tl.sum(one, 0)
    return w, real, remaining
