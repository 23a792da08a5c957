"""Causal momentum attention in Triton, forward and backward: one algorithm for the output and three gradients.

With g_i the gradient for o_i, ρ_i = γ / n_i and δ_i = −(g_i·o_i) / n_i, the gradients for (s, P) of `causal_tiles` go through the
same chunk backwards in time, and those for q, k, v are

    dq_i = Σ_{j≤i} (ρ_i w_{r_i−r_j} (g_i·v_j) + δ_i) k_j        dk_j = Σ_{i≥j} (ρ_i w_{r_i−r_j} (v_j·g_i) + δ_i) q_i
    dv_j = Σ_{i≥j} ρ_i w_{r_i−r_j} (k_j·q_i) g_i

So all four are `attend`: row x_i times the rows y_j up to it (from it on where REVERSE), weighted, times u_j.

    out    x  y  u    REVERSE
    o      q  k  v    no         divided by the normaliser n, which it writes
    dq     g  v  k    no         δ added to the weights
    dk     v  g  q    yes        δ added to the weights
    dv     k  q  g    yes

A program walks over the chunks of one segment of one head with the state of a block of u's columns in registers. Where heads are
too few to fill the device, `causal_segments` makes the states that enter each of several segments. Sums are float32, and nothing
is summed in an order that changes (no atomics).

Where the powers of β are soon rounded away, Σ_j k_j v_jᵀ is state enough: w_n = (1 − βⁿ⁺¹) / (1 − β) is STEADY = 1 / (1 − β) for
all keys of earlier chunks but the last few before the chunk, of which βⁿ⁺¹ is subtracted. That is βⁿ⁺¹ ≤ β² of 1, so few digits
are lost; within a chunk the weights are w_n as they are.
"""

import triton
import triton.language as tl

from momentum_fairseq.ops.kernels.causal_tiles import (
    DECAY,
    GROWTH,
    advance,
    count_keys,
    load_rows,
    look_up,
    multiply,
    nearest,
    read,
    rows_of,
    store_rows,
)
from momentum_fairseq.ops.kernels.sequences import sequence


@triton.jit
def attend(
    x, y, u, out,
    raw,  # out's own rows before the feature map, for its derivative; or None
    normaliser,  # n `[B,H,N]`, which the output is divided by; None for gradients
    rho,
    delta,
    padding, bounds, table, gamma,
    steady,  # 1 / (1 − β) where one state does; None where it takes two, and for linear attention
    entering,  # what enters each segment; none where nothing does
    leaving,  # what leaves the last one (the first where REVERSE), to be written
    state_strides,  # of x's and of u's columns in the state
    heads, length, x_width, u_width, blocks, segments, segment_chunks, eps,
    REVERSE: tl.constexpr, MAP: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, X_BLOCK: tl.constexpr, U_BLOCK: tl.constexpr,
    RECENT: tl.constexpr,  # rows next to a chunk whose weight isn't yet the steady one
):  # fmt: skip
    """One block of columns of out, over one segment of one head (see the top of the file)."""
    NORMALISE: tl.constexpr = normaliser is not None
    MAP_XY: tl.constexpr = MAP and delta is None
    MAP_U: tl.constexpr = MAP and delta is not None
    program = tl.program_id(0)
    block, segment = program % blocks, program // blocks % segments
    place = (program // blocks // segments).to(tl.int64)
    head = place % heads
    row, start_of_all, own_length = sequence(bounds, place // heads, length)
    x, y, u, out = (
        rows_of(x, row, head, start_of_all),
        rows_of(y, row, head, start_of_all),
        rows_of(u, row, head, start_of_all),
        rows_of(out, row, head, start_of_all),
    )
    if MAP_U:
        raw = rows_of(raw, row, head, start_of_all)
    numbers = (row * heads + head) * length + start_of_all
    if table is not None:
        table = table.first + head * table.strides[0]
    state_table = table if steady is None else None
    x_columns, u_columns = tl.arange(0, X_BLOCK), block * U_BLOCK + tl.arange(0, U_BLOCK)
    in_x, in_u = x_columns < x_width, u_columns < u_width
    sum_columns, in_sums, sum_width = (x_columns, in_x, x_width) if NORMALISE else (u_columns, in_u, u_width)
    in_state = x_columns[:, None] * state_strides[0] + u_columns[None, :] * state_strides[1]
    state_mask = in_x[:, None] & in_u[None, :]

    first = tl.zeros([X_BLOCK, U_BLOCK], tl.float32)
    second = first
    sums = tl.zeros([X_BLOCK if NORMALISE else U_BLOCK], tl.float32)
    if entering.first is not None:
        here = (place * segments + segment) * x_width * u_width + in_state
        first = tl.load(entering.first + here, mask=state_mask, other=0)
        if state_table is not None:
            second = tl.load(entering.second + here, mask=state_mask, other=0)
        if NORMALISE or delta is not None:
            sums = tl.load(entering.sums + (place * segments + segment) * sum_width + sum_columns, mask=in_sums, other=0)

    begin = segment * segment_chunks
    chunks = tl.minimum(segment_chunks, tl.cdiv(own_length, CHUNK) - begin)
    position = tl.arange(0, CHUNK)
    if table is not None and padding is None:  # the same in each chunk
        steps = position[None, :] - position[:, None] if REVERSE else position[:, None] - position[None, :]
        within = look_up(table, GROWTH, tl.maximum(steps, 0), CHUNK)
    if RECENT > 0:
        near = CHUNK + tl.arange(0, RECENT) if REVERSE else tl.arange(0, RECENT) - RECENT
        steps = near[None, :] - position[:, None] if REVERSE else position[:, None] - near[None, :]
        lacking = look_up(table, DECAY, tl.minimum(steps + 1, CHUNK), CHUNK)
    for turn in tl.range(0, chunks, disable_licm=True):  # else addresses are kept that take more registers than there are
        start = (begin + (chunks - 1 - turn if REVERSE else turn)) * CHUNK
        rows = start + position
        inside = rows < own_length
        real, rank, total = count_keys(padding, row, rows, position, start, own_length, CHUNK)
        x_wanted, y_wanted = (real, inside) if REVERSE else (inside, real)
        x_rows = load_rows(x, rows, x_columns, x_wanted, x_width, MAP_XY, OPERAND)
        y_rows = load_rows(y, rows, x_columns, y_wanted, x_width, MAP_XY, OPERAND)
        u_rows = load_rows(u, rows, u_columns, y_wanted, u_width, MAP_U, OPERAND)

        if NORMALISE:
            n = tl.sum(x_rows.to(tl.float32) * sums[None, :], 1) + eps
            sums += tl.sum(y_rows.to(tl.float32), 0)
        ordered = position[:, None] <= position[None, :] if REVERSE else position[:, None] >= position[None, :]
        scores = tl.where(ordered, multiply(x_rows, tl.trans(y_rows), PRECISION), 0)
        if NORMALISE:
            n += tl.sum(scores, 1)
        else:
            factor = tl.load(rho + numbers + rows, mask=inside, other=0)
            scores *= factor[None, :] if REVERSE else factor[:, None]
        if table is not None:
            if padding is not None:
                steps = rank[None, :] - rank[:, None] if REVERSE else rank[:, None] - rank[None, :]
                within = look_up(table, GROWTH, tl.where(ordered, steps, 0), CHUNK)
            scores *= within
        if delta is not None:
            more = tl.load(delta + numbers + rows, mask=inside, other=0)
            scores += tl.where(ordered, more[None, :] if REVERSE else more[:, None], 0)
        scores = nearest(scores, OPERAND)

        result = read(x_rows, first, second, state_table, rank, total, REVERSE, PRECISION, CHUNK)
        if RECENT > 0:
            near_rows = start + near
            there = (near_rows >= 0) & (near_rows < own_length)
            y_near = load_rows(y, near_rows, x_columns, there, x_width, MAP_XY, OPERAND)
            u_near = load_rows(u, near_rows, u_columns, there, u_width, MAP_U, OPERAND)
            excess = multiply(x_rows, tl.trans(y_near), PRECISION) * -lacking
            if REVERSE:
                excess *= tl.load(rho + numbers + near_rows, mask=there, other=0)[None, :]
            result = multiply(nearest(excess, OPERAND), u_near, PRECISION, result)
        if steady is not None:
            result *= steady
        if not NORMALISE and not REVERSE:
            result *= factor[:, None]
        if delta is not None:
            result += sums[None, :] if REVERSE else more[:, None] * sums[None, :]
        result = multiply(scores, u_rows, PRECISION, result)
        if NORMALISE:
            result *= (tl.load(gamma.first + head * gamma.strides[0]) / n)[:, None]
            tl.store(normaliser + numbers + rows, n, mask=inside & (block == 0))
        if MAP_U:
            before = load_rows(raw, rows, u_columns, x_wanted, u_width, False, tl.float32)
            result *= tl.exp(tl.minimum(before, 0))
        if REVERSE and padding is not None:
            result = tl.where(real[:, None], result, 0)
        store_rows(out, result, rows, u_columns, inside, u_width)

        u_rows = u_rows.to(tl.float32)
        if delta is not None:
            sums += tl.sum(more[:, None] * u_rows, 0) if REVERSE else tl.sum(u_rows, 0)
        if REVERSE:
            u_rows *= factor[:, None]
        first, second = advance(first, second, y_rows, u_rows, state_table, rank, total, REVERSE, PRECISION, CHUNK)

    if segment == (0 if REVERSE else segments - 1):
        here = place * x_width * u_width + in_state
        if leaving.first is not None:
            tl.store(leaving.first + here, first, mask=state_mask)
        if leaving.second is not None:
            tl.store(leaving.second + here, second, mask=state_mask)
        if leaving.sums is not None:
            tl.store(leaving.sums + place * sum_width + sum_columns, sums, mask=in_sums & (not NORMALISE or block == 0))
