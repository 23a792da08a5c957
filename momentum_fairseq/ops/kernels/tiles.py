"""What the kernels share: tiles of `[B,H,N,D]` tensors of any strides, products of them, φ, and the weights of counts."""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from momentum_fairseq.ops.kernel_choice import allows_tf32

# Triton's interpreter multiplies the bits of bfloat16 numbers and rounds towards zero. There `product` multiplies the rounded
# numbers in float32, which is the same, and `to_bfloat16` rounds as hardware does.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")


@triton.jit
def to_bfloat16(x):
    """x rounded to the nearest; float32 in the interpreter."""
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(tl.bfloat16)


@triton.jit
def load_rows(ptr, first, last, stride, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows first … last − 1 of a matrix with contiguous columns, float32 `[ROWS,COLUMNS]`, zeros beyond."""
    row = first + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row[:, None] < last) & (column[None, :] < width)
    return tl.load(ptr + row[:, None].to(tl.int64) * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_rows(ptr, x, first, last, stride, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The inverse of `load_rows`."""
    row = first + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row[:, None] < last) & (column[None, :] < width)
    if ptr.dtype.element_ty == tl.bfloat16:
        x = to_bfloat16(x)
    tl.store(ptr + row[:, None].to(tl.int64) * stride + column[None, :], x.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def features(x, first, last, width, MAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """φ(x) = elu(x) + 1 of a tile of `load_rows`, zeros beyond its edges as before; x itself where it is MAPPED already."""
    if not MAPPED:
        row = first + tl.arange(0, ROWS)
        column = tl.arange(0, COLUMNS)
        inside = (row[:, None] < last) & (column[None, :] < width)
        x = tl.where(inside, tl.where(x > 0, x + 1, tl.exp(tl.where(x > 0, 0.0, x))), 0.0)
    return x


@triton.jit
def slope(mapped, MAPPED: tl.constexpr):
    """φ′(x) from φ(x)."""
    if MAPPED:
        return tl.full(mapped.shape, 1.0, tl.float32)
    return tl.where(mapped > 1, 1.0, mapped)


@triton.jit
def product(a, b, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """a @ b summed in float32; HALF rounds the factors to bfloat16, for the tensor cores."""
    if HALF:
        return tl.dot(to_bfloat16(a), to_bfloat16(b))
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def scaled_gradient(g, out, inverse, first, last, g_stride, out_stride, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """e_i = g_i / l_i and δ_i = e_i·o_i of some rows, with 1 / l_i in `inverse`; zeros beyond the last."""
    row = first + tl.arange(0, ROWS)
    e = load_rows(g, first, last, g_stride, width, ROWS, COLUMNS) * tl.load(inverse + row, mask=row < last, other=0.0)[:, None]
    return e, tl.sum(e * load_rows(out, first, last, out_stride, width, ROWS, COLUMNS), 1)


@triton.jit
def one_minus_power(count, log_beta):
    """1 − β^count with all its digits as β → 1: a series of −expm1 near zero."""
    x = count.to(tl.float32) * log_beta
    y = tl.maximum(x, -0.5)
    series = 1.0 + y / 8 * (1.0 + y / 9)
    series = 1.0 + y / 5 * (1.0 + y / 6 * (1.0 + y / 7 * series))
    series = -y * (1.0 + y / 2 * (1.0 + y / 3 * (1.0 + y / 4 * series)))
    return tl.where(x > -0.5, series, 1.0 - tl.exp(x))


def power_of_two(size: int, least: int = 16) -> int:
    """The side of a tile for `size` rows or columns; a product takes 16 at least."""
    return max(least, triton.next_power_of_2(size))


def rows_contiguous(x: Tensor) -> Tensor:
    """x, or a copy where its last axis isn't contiguous."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def precision(*tensors: Tensor) -> dict[str, bool | str]:
    """How `product` multiplies: bfloat16 inputs as they are, float16 ones (whose sums overflow) as tf32, float32 ones exactly.

    Float32 ones go as tf32 too where torch may multiply them so.
    """
    dtypes = {x.dtype for x in tensors}
    fast = torch.float32 not in dtypes or allows_tf32()
    return {"HALF": dtypes == {torch.bfloat16}, "PRECISION": "tf32" if fast else "ieee"}
