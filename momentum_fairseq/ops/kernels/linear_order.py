"""q (kᵀ v): one pass over keys and values, one over queries; the gradients are three passes more. No sum changes its order."""

import triton
import triton.language as tl

from momentum_fairseq.ops.kernels.sequences import head, sequence
from momentum_fairseq.ops.kernels.tiles import (
    features,
    load_rows,
    one_minus_power,
    product,
    scaled_gradient,
    slope,
    store_rows,
)


@triton.jit
def count_keys(padding, counts, S, stride, BLOCK: tl.constexpr):
    """How many keys are real at a key's position and after it, int32 `[B,S]`; 0 for padding."""
    b = tl.program_id(0).to(tl.int64)
    after = S * 0
    for block in range(tl.cdiv(S, BLOCK) - 1, -1, -1):
        position = block * BLOCK + tl.arange(0, BLOCK)
        inside = position < S
        real = (tl.load(padding + b * stride + position, mask=inside, other=1) == 0).to(tl.int32)
        total = tl.sum(real, 0)
        tl.store(counts + b * S + position, (after + total - tl.cumsum(real, 0) + real) * real, mask=inside)
        after += total


@triton.jit
def counted_weights(weights, counts, first, last, log_beta, scale, KEYS: tl.constexpr):
    """Weights of some keys, read or γ (1 − β^c) / (1 − β) = scale (1 − β^c), and whether they are real; c as of `count_keys`."""
    position = first + tl.arange(0, KEYS)
    inside = position < last
    count = last - position
    if counts is not None:
        count = tl.load(counts + position, mask=inside, other=0)
    real = inside & (count > 0)
    if weights is not None:
        w = tl.load(weights + position, mask=real, other=0.0)
    else:
        w = tl.where(real, scale * one_minus_power(count, log_beta), 0.0)
    return w, real


@triton.jit
def sum_states(
    k, v, weights, key_weights, counts, bounds, states, sums,
    k_strides, v_strides, weight_strides, counts_stride, log_beta, scale, H, S, D, M, SPLIT,
    MAPPED: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    KEYS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Σ_j w_j k_j v_jᵀ and Σ_j k_j, or Σ_j x_j k_j with `key_weights` x `[B,H,S]`, over SPLIT keys of one head.

    Into states `[B,H,splits,D,M]` and sums `[B,H,splits,D]`.
    """
    bh = tl.program_id(0).to(tl.int64)
    b, h = bh // H, bh % H
    row, start, keys = sequence(bounds, b, S)
    k = head(k, k_strides, row, h, start)
    m = tl.program_id(2) * BLOCK_M
    v = head(v, v_strides, row, h, start) + m
    if weights is not None:
        weights += row * weight_strides[0] + h * weight_strides[1] + start
    if key_weights is not None:
        key_weights += (row * H + h) * S + start
    if counts is not None:
        counts += row * counts_stride
    state = tl.zeros((BLOCK_D, BLOCK_M), tl.float32)
    total = tl.zeros((BLOCK_D,), tl.float32)
    first = tl.program_id(1) * SPLIT
    for j in range(first, tl.minimum(first + SPLIT, keys), KEYS):
        w, real = counted_weights(weights, counts, j, keys, log_beta, scale, KEYS)
        y = features(load_rows(k, j, keys, k_strides[2], D, KEYS, BLOCK_D), j, keys, D, MAPPED, KEYS, BLOCK_D)
        # Both: a NaN in padding would come through a zero on the other side.
        y = tl.where(real[:, None], y, 0.0)
        values = tl.where(real[:, None], load_rows(v, j, keys, v_strides[2], M - m, KEYS, BLOCK_M), 0.0)
        state += product(tl.trans(y), values * w[:, None], HALF, PRECISION)
        if key_weights is not None:
            position = j + tl.arange(0, KEYS)
            y = y * tl.load(key_weights + position, mask=position < keys, other=0.0)[:, None]
        total += tl.sum(y, 0)
    out = bh * tl.num_programs(1) + tl.program_id(1)
    store_rows(states + out * D * M + m, state, 0, D, M, M - m, BLOCK_D, BLOCK_M)
    if m == 0:
        d = tl.arange(0, BLOCK_D)
        tl.store(sums + out * D + d, total, mask=d < D)


@triton.jit
def read_states(
    q, states, sums, bounds, out, inverse, q_strides, out_strides, eps, H, N, D, M, blocks,
    MAPPED: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """o_i = q_iᵀ s / l_i with l_i = q_i·z + eps, for ROWS queries of one head; and 1 / l_i."""
    program = tl.program_id(0)
    bh = (program // blocks).to(tl.int64)
    b, h = bh // H, bh % H
    row, start, queries = sequence(bounds, b, N)
    i = program % blocks * ROWS
    if i >= queries:
        return
    m = tl.program_id(1) * BLOCK_M
    q = head(q, q_strides, row, h, start)
    x = features(load_rows(q, i, queries, q_strides[2], D, ROWS, BLOCK_D), i, queries, D, MAPPED, ROWS, BLOCK_D)
    d = tl.arange(0, BLOCK_D)
    denominator = tl.sum(x * tl.load(sums + bh * D + d, mask=d < D, other=0.0)[None, :], 1) + eps
    state = load_rows(states + bh * D * M + m, 0, D, M, M - m, BLOCK_D, BLOCK_M)
    numerator = product(x, state, HALF, PRECISION)
    out = head(out, out_strides, row, h, start) + m
    store_rows(out, numerator / denominator[:, None], i, queries, out_strides[2], M - m, ROWS, BLOCK_M)
    if m == 0:
        rows = i + tl.arange(0, ROWS)
        tl.store(inverse + (row * H + h) * N + start + rows, 1.0 / denominator, mask=rows < queries)


@triton.jit
def query_gradients(
    g, q, out, inverse, states, sums, bounds, dq, shares, g_strides, q_strides, out_strides, dq_strides, H, N, D, M, blocks,
    MAPPED: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """dq_i = s e_i − δ_i z with e_i = g_i / l_i, δ_i = e_i·o_i; and −δ_i, the share of q_i in the gradient of z."""
    program = tl.program_id(0)
    bh = (program // blocks).to(tl.int64)
    b, h = bh // H, bh % H
    row, start, queries = sequence(bounds, b, N)
    i = program % blocks * ROWS
    if i >= queries:
        return
    g = head(g, g_strides, row, h, start)
    out = head(out, out_strides, row, h, start)
    inverse += (row * H + h) * N + start
    states += bh * D * M
    delta = tl.zeros((ROWS,), tl.float32)
    dx = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for m in range(0, M, BLOCK_M):
        e, part = scaled_gradient(g + m, out + m, inverse, i, queries, g_strides[2], out_strides[2], M - m, ROWS, BLOCK_M)
        delta += part
        state = load_rows(states + m, 0, D, M, M - m, BLOCK_D, BLOCK_M)
        dx += product(e, tl.trans(state), HALF, PRECISION)
    d = tl.arange(0, BLOCK_D)
    dx -= delta[:, None] * tl.load(sums + bh * D + d, mask=d < D, other=0.0)[None, :]
    q = head(q, q_strides, row, h, start)
    x = features(load_rows(q, i, queries, q_strides[2], D, ROWS, BLOCK_D), i, queries, D, MAPPED, ROWS, BLOCK_D)
    dq = head(dq, dq_strides, row, h, start)
    store_rows(dq, dx * slope(x, MAPPED), i, queries, dq_strides[2], D, ROWS, BLOCK_D)
    rows = i + tl.arange(0, ROWS)
    tl.store(shares + (row * H + h) * N + start + rows, -delta, mask=rows < queries)


@triton.jit
def key_gradients(
    k, v, weights, counts, dstates, dsums, bounds, dk, dv, dw,
    k_strides, v_strides, dk_strides, dv_strides, weight_strides, counts_stride, log_beta, scale, H, S, D, M, blocks,
    MAPPED: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    KEYS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """dk_j = w_j ds v_j + dz        dv_j = w_j dsᵀ k_j        dw_j = k_jᵀ ds v_j"""
    program = tl.program_id(0)
    bh = (program // blocks).to(tl.int64)
    b, h = bh // H, bh % H
    row, start, keys = sequence(bounds, b, S)
    j = program % blocks * KEYS
    if j >= keys:
        return
    k = head(k, k_strides, row, h, start)
    v = head(v, v_strides, row, h, start)
    dv = head(dv, dv_strides, row, h, start)
    if weights is not None:
        weights += row * weight_strides[0] + h * weight_strides[1] + start
    if counts is not None:
        counts += row * counts_stride
    w, real = counted_weights(weights, counts, j, keys, log_beta, scale, KEYS)
    y = features(load_rows(k, j, keys, k_strides[2], D, KEYS, BLOCK_D), j, keys, D, MAPPED, KEYS, BLOCK_D)
    y = tl.where(real[:, None], y, 0.0)
    read = tl.zeros((KEYS, BLOCK_D), tl.float32)
    for m in range(0, M, BLOCK_M):
        values = tl.where(real[:, None], load_rows(v + m, j, keys, v_strides[2], M - m, KEYS, BLOCK_M), 0.0)
        dstate = load_rows(dstates + bh * D * M + m, 0, D, M, M - m, BLOCK_D, BLOCK_M)
        read += product(values, tl.trans(dstate), HALF, PRECISION)
        du = tl.where(real[:, None], product(y, dstate, HALF, PRECISION) * w[:, None], 0.0)
        store_rows(dv + m, du, j, keys, dv_strides[2], M - m, KEYS, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    dy = read * w[:, None] + tl.load(dsums + bh * D + d, mask=d < D, other=0.0)[None, :]
    dy = tl.where(real[:, None], dy * slope(y, MAPPED), 0.0)
    dk = head(dk, dk_strides, row, h, start)
    store_rows(dk, dy, j, keys, dk_strides[2], D, KEYS, BLOCK_D)
    if dw is not None:
        position = j + tl.arange(0, KEYS)
        dw += (row * H + h) * S + start
        tl.store(dw + position, tl.where(real, tl.sum(read * y, 1), 0.0), mask=position < keys)
