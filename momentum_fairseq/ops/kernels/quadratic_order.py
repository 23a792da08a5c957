"""(q kᵀ) v: scores, weights, normaliser and the product with v in one launch, and one for all gradients."""

import triton
import triton.language as tl

from momentum_fairseq.ops.kernels.sequences import count_real, head, key_weights, sequence
from momentum_fairseq.ops.kernels.tiles import features, load_rows, product, scaled_gradient, slope, store_rows


@triton.jit
def read_by_scores(
    q, k, v, weights, padding, query_bounds, key_bounds, out, inverse,
    q_strides, k_strides, v_strides, out_strides, weight_strides, padding_stride,
    log_beta, scale, eps, H, N, S, D, M,
    MAPPED: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """o_i = Σ_j w_j (q_i·k_j) v_j / l_i with l_i = Σ_j q_i·k_j + eps, for ROWS queries of one head; and 1 / l_i."""
    bh = tl.program_id(0).to(tl.int64)
    b, h = bh // H, bh % H
    row, start, queries = sequence(query_bounds, b, N)
    key_row, key_start, keys = sequence(key_bounds, b, S)
    i = tl.program_id(1) * ROWS
    if i >= queries:
        return
    q = head(q, q_strides, row, h, start)
    k = head(k, k_strides, key_row, h, key_start)
    v = head(v, v_strides, key_row, h, key_start)
    if weights is not None:
        weights += key_row * weight_strides[0] + h * weight_strides[1] + key_start
    if padding is not None:
        padding += key_row * padding_stride
    x = features(load_rows(q, i, queries, q_strides[2], D, ROWS, BLOCK_D), i, queries, D, MAPPED, ROWS, BLOCK_D)
    numerator = tl.zeros((ROWS, BLOCK_M), tl.float32)
    denominator = tl.zeros((ROWS,), tl.float32) + eps
    remaining = count_real(padding, 0, keys, KEYS)
    for j in range(0, keys, KEYS):
        w, real, remaining = key_weights(weights, padding, j, keys, remaining, log_beta, scale, KEYS)
        y = features(load_rows(k, j, keys, k_strides[2], D, KEYS, BLOCK_D), j, keys, D, MAPPED, KEYS, BLOCK_D)
        # Both: a NaN in padding would come through a zero on the other side.
        y = tl.where(real[:, None], y, 0.0)
        values = tl.where(real[:, None], load_rows(v, j, keys, v_strides[2], M, KEYS, BLOCK_M), 0.0)
        scores = product(x, tl.trans(y), HALF, PRECISION)
        denominator += tl.sum(scores, 1)
        numerator += product(scores * w[None, :], values, HALF, PRECISION)
    out = head(out, out_strides, row, h, start)
    store_rows(out, numerator / denominator[:, None], i, queries, out_strides[2], M, ROWS, BLOCK_M)
    rows = i + tl.arange(0, ROWS)
    tl.store(inverse + (row * H + h) * N + start + rows, 1.0 / denominator, mask=rows < queries)


@triton.jit
def gradients_by_scores(
    g, q, k, v, out, inverse, weights, padding, query_bounds, key_bounds, dq, dk, dv, dw,
    g_strides, q_strides, k_strides, v_strides, out_strides, dq_strides, dk_strides, dv_strides,
    weight_strides, padding_stride, log_beta, scale, H, N, S, D, M, ROW_BLOCKS,
    MAPPED: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """The gradients of ROWS queries, in the first ROW_BLOCKS programs of a head, or of KEYS keys, values and weights.

        e_i = g_i / l_i        δ_i = e_i·o_i        t_ij = w_j e_i·v_j − δ_i
        dq_i = Σ_j t_ij k_j        dk_j = Σ_i t_ij q_i        dv_j = w_j Σ_i (q_i·k_j) e_i        dw_j = Σ_i (q_i·k_j) (e_i·v_j)
    """
    bh = tl.program_id(0).to(tl.int64)
    b, h = bh // H, bh % H
    row, start, queries = sequence(query_bounds, b, N)
    key_row, key_start, keys = sequence(key_bounds, b, S)
    q = head(q, q_strides, row, h, start)
    g = head(g, g_strides, row, h, start)
    out = head(out, out_strides, row, h, start)
    inverse += (row * H + h) * N + start
    k = head(k, k_strides, key_row, h, key_start)
    v = head(v, v_strides, key_row, h, key_start)
    if weights is not None:
        weights += key_row * weight_strides[0] + h * weight_strides[1] + key_start
    if padding is not None:
        padding += key_row * padding_stride
    if tl.program_id(1) < ROW_BLOCKS:
        i = tl.program_id(1) * ROWS
        if i >= queries:
            return
        e, delta = scaled_gradient(g, out, inverse, i, queries, g_strides[2], out_strides[2], M, ROWS, BLOCK_M)
        x = features(load_rows(q, i, queries, q_strides[2], D, ROWS, BLOCK_D), i, queries, D, MAPPED, ROWS, BLOCK_D)
        dx = tl.zeros((ROWS, BLOCK_D), tl.float32)
        remaining = count_real(padding, 0, keys, KEYS)
        for j in range(0, keys, KEYS):
            w, real, remaining = key_weights(weights, padding, j, keys, remaining, log_beta, scale, KEYS)
            y = features(load_rows(k, j, keys, k_strides[2], D, KEYS, BLOCK_D), j, keys, D, MAPPED, KEYS, BLOCK_D)
            y = tl.where(real[:, None], y, 0.0)
            values = tl.where(real[:, None], load_rows(v, j, keys, v_strides[2], M, KEYS, BLOCK_M), 0.0)
            t = product(e, tl.trans(values), HALF, PRECISION) * w[None, :] - delta[:, None]
            dx += product(t, y, HALF, PRECISION)
        dq = head(dq, dq_strides, row, h, start)
        store_rows(dq, dx * slope(x, MAPPED), i, queries, dq_strides[2], D, ROWS, BLOCK_D)
    else:
        j = (tl.program_id(1) - ROW_BLOCKS) * KEYS
        if j >= keys:
            return
        remaining = count_real(padding, j, keys, KEYS)
        w, real, remaining = key_weights(weights, padding, j, keys, remaining, log_beta, scale, KEYS)
        y = features(load_rows(k, j, keys, k_strides[2], D, KEYS, BLOCK_D), j, keys, D, MAPPED, KEYS, BLOCK_D)
        y = tl.where(real[:, None], y, 0.0)
        values = tl.where(real[:, None], load_rows(v, j, keys, v_strides[2], M, KEYS, BLOCK_M), 0.0)
        dy = tl.zeros((KEYS, BLOCK_D), tl.float32)
        du = tl.zeros((KEYS, BLOCK_M), tl.float32)
        dweights = tl.zeros((KEYS,), tl.float32)
        for i in range(0, queries, ROWS):
            e, delta = scaled_gradient(g, out, inverse, i, queries, g_strides[2], out_strides[2], M, ROWS, BLOCK_M)
            x = features(load_rows(q, i, queries, q_strides[2], D, ROWS, BLOCK_D), i, queries, D, MAPPED, ROWS, BLOCK_D)
            scores = product(y, tl.trans(x), HALF, PRECISION)
            du += product(scores, e, HALF, PRECISION)
            read = product(values, tl.trans(e), HALF, PRECISION)
            dweights += tl.sum(scores * read, 1)
            dy += product(read * w[:, None] - delta[None, :], x, HALF, PRECISION)
        dy, du = tl.where(real[:, None], dy * slope(y, MAPPED), 0.0), tl.where(real[:, None], du * w[:, None], 0.0)
        dk = head(dk, dk_strides, key_row, h, key_start)
        dv = head(dv, dv_strides, key_row, h, key_start)
        store_rows(dk, dy, j, keys, dk_strides[2], D, KEYS, BLOCK_D)
        store_rows(dv, du, j, keys, dv_strides[2], M, KEYS, BLOCK_M)
        if dw is not None:
            positions = j + tl.arange(0, KEYS)
            dw += (key_row * H + h) * S + key_start
            tl.store(dw + positions, tl.where(real, dweights, 0.0), mask=positions < keys)
