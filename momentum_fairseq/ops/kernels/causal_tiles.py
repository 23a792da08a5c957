"""What the causal kernels share: tiles of rows, products, the weights of counts, and the step of a state over one chunk.

With P = −m, and s divided by γ, the recurrence (Nguyen et al., "Momentum Transformer", MSML 2022, Eq. 12) over the real keys is

    P_i = β P_{i-1} + k_i v_iᵀ        s_i = s_{i-1} + P_i        z_i = z_{i-1} + k_i
    o_i = γ q_iᵀ s_i / n_i        n_i = q_iᵀ z_i + eps

and a chunk of R real keys, key j the r_j-th of them, takes (s, P) to

    s' = s + a_R P + Σ_j w_{R−r_j} k_j v_jᵀ        P' = β^R P + Σ_j β^{R−r_j} k_j v_jᵀ
    q_iᵀ s_i = q_iᵀ s + a_{r_i} q_iᵀ P + Σ_{j≤i} w_{r_i−r_j} (q_i·k_j) v_j

with w_n = 1 + β + … + βⁿ and a_n = β + … + βⁿ: nothing is ever subtracted.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from momentum_fairseq.ops.kernels.tiles import INTERPRETED

# Rows of the table of weights `[H or 1,6,CHUNK+1]`: w_n, a_n, βⁿ, βⁿ − 1, and the derivatives for β of w_n (and a_n) and of βⁿ.
# A state loses (βⁿ − 1) of itself: a rounded βⁿ near one would be wrong to the same side in every chunk.
GROWTH, ENTRY, DECAY, LOSS, GROWTH_SLOPE, DECAY_SLOPE = (tl.constexpr(i) for i in range(6))


class View(NamedTuple):
    """A tensor as a kernel takes it, with the strides it is read by."""

    first: Any
    strides: tuple[int, ...]


class States(NamedTuple):
    """s / γ and −m `[B,H,D,M]` and z `[B,H,D]`, contiguous float32; or those that enter each segment, `[B,H,segments,..]`.

    A kernel takes None for those that it isn't to read or to write, and looks at one at a time: in Triton 3.6 a tuple that holds
    None can't be compared with None.
    """

    first: Any
    second: Any
    sums: Any


NO_STATES = States(None, None, None)


@triton.jit
def rows_of(x, row, head, start):
    """The rows of one head of a sequence that begins at `start`, of x `[B,H,N,D]`."""
    return View(x.first + row * x.strides[0] + head * x.strides[1] + start * x.strides[2], x.strides)


@triton.jit
def elu_plus_one(x):
    return tl.where(x > 0, x + 1, tl.exp(tl.minimum(x, 0)))


@triton.jit
def load_rows(x, rows, columns, wanted, width, MAP: tl.constexpr, OPERAND: tl.constexpr):
    """`[CHUNK,BLOCK]`: zeros where a row isn't wanted, whatever it holds, and right of the width."""
    mask = wanted[:, None] & (columns < width)[None, :]
    x = tl.load(x.first + rows[:, None].to(tl.int64) * x.strides[2] + columns[None, :] * x.strides[3], mask=mask, other=0)
    if MAP:
        x = tl.where(mask, elu_plus_one(x.to(tl.float32)), 0)
    return nearest(x, OPERAND)


@triton.jit
def store_rows(out, x, rows, columns, inside, width):
    at = out.first + rows[:, None].to(tl.int64) * out.strides[2] + columns[None, :] * out.strides[3]
    tl.store(at, nearest(x, out.first.dtype.element_ty), mask=inside[:, None] & (columns < width)[None, :])


@triton.jit
def count_keys(padding, row, rows, position, start, length, CHUNK: tl.constexpr):
    """Which rows are real keys, the number of real keys of the chunk up to each row, and in all of it."""
    inside = rows < length
    if padding is not None:
        at = padding.first + row * padding.strides[0] + rows.to(tl.int64) * padding.strides[1]
        real = tl.load(at, mask=inside, other=1) == 0
        rank = tl.cumsum(real.to(tl.int32), 0)
        total = tl.sum(real.to(tl.int32), 0)
    else:
        real = inside
        total = tl.minimum(length - start, CHUNK)
        rank = tl.minimum(position + 1, total)
    return real, rank, total


@triton.jit
def look_up(table, row: tl.constexpr, count, CHUNK: tl.constexpr):
    return tl.load(table + row * (CHUNK + 1) + count)


@triton.jit
def nearest(x, DTYPE: tl.constexpr):
    """x rounded to the nearest, by hand in the interpreter, which truncates to bfloat16."""
    if INTERPRETED:  # noqa: SIM102 (a compiled kernel reads no further)
        if DTYPE is tl.bfloat16 and x.dtype is tl.float32:
            bits = x.to(tl.int32, bitcast=True)
            x = (bits + 32767 + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def multiply(x, y, PRECISION: tl.constexpr, added=None):
    """x y, summed in float32, onto `added` where it is given; y is rounded to x's dtype."""
    y = nearest(y, x.dtype)
    if INTERPRETED:  # it would multiply the bits of bfloat16 numbers
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, added, input_precision=PRECISION)


@triton.jit
def advance(first, second, y, u, table, rank, total, REVERSE: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr):
    """(s, P), or where REVERSE their gradients, over one chunk; y is `[CHUNK,D]`, u float32 `[CHUNK,M]`.

    Each product is summed onto what it belongs to, so that it takes no registers of its own.
    """
    y = tl.trans(y)
    if table is None:
        first = multiply(y, u, PRECISION, first)
    else:
        entry, loss = look_up(table, ENTRY, total, CHUNK), look_up(table, LOSS, total, CHUNK)
        if REVERSE:
            second += loss * second + entry * first
            second = multiply(y, u * look_up(table, ENTRY, rank, CHUNK)[:, None], PRECISION, second)
            first = multiply(y, u, PRECISION, first)
        else:
            first += entry * second
            first = multiply(y, u * look_up(table, GROWTH, total - rank, CHUNK)[:, None], PRECISION, first)
            second += loss * second
            second = multiply(y, u * look_up(table, DECAY, total - rank, CHUNK)[:, None], PRECISION, second)
    return first, second


@triton.jit
def read(x, first, second, table, rank, total, REVERSE: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr):
    """What the rows x `[CHUNK,D]` read of the state that enters the chunk, before any of its own keys: float32 `[CHUNK,M]`."""
    if table is None:
        found = multiply(x, first, PRECISION)
    elif REVERSE:
        growth = look_up(table, GROWTH, total - rank, CHUNK)
        ratio = look_up(table, DECAY, total - rank, CHUNK) / growth
        found = multiply(x, first, PRECISION, multiply(x, second, PRECISION) * ratio[:, None]) * growth[:, None]
    else:
        found = multiply(x, second, PRECISION) * look_up(table, ENTRY, rank, CHUNK)[:, None]
        found = multiply(x, first, PRECISION, found)
    return found
