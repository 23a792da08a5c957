"""What the gradients of causal attention take beside the walk over the chunks: ρ and δ, and the derivative for β."""

import triton
import triton.language as tl

from momentum_fairseq.ops.kernels.causal_tiles import (
    DECAY,
    DECAY_SLOPE,
    ENTRY,
    GROWTH_SLOPE,
    LOSS,
    count_keys,
    load_rows,
    look_up,
    multiply,
    nearest,
    rows_of,
)
from momentum_fairseq.ops.kernels.sequences import sequence


@triton.jit
def prepare_gradients(
    out, grad, normaliser, gamma, rho, delta, heads, length, width, row_blocks, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """ρ = γ / n and δ = −(g·o) / n of some rows of one head."""
    program = tl.program_id(0)
    place = (program // row_blocks).to(tl.int64)
    head = place % heads
    rows, columns = program % row_blocks * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = rows < length
    o = load_rows(rows_of(out, place // heads, head, 0), rows, columns, inside, width, False, tl.float32)
    g = load_rows(rows_of(grad, place // heads, head, 0), rows, columns, inside, width, False, tl.float32)
    n = tl.load(normaliser + place * length + rows, mask=inside, other=1)
    tl.store(rho + place * length + rows, tl.load(gamma.first + head * gamma.strides[0]) / n, mask=inside)
    tl.store(delta + place * length + rows, -tl.sum(o * g, 1) / n, mask=inside)


@triton.jit
def differentiate_momentum(
    q, k, v, grad, rho, padding, bounds, table,
    entering,  # States before each segment, of which P is read; none where all are zeros
    leaving,  # the gradients for s and P after each segment, likewise
    slope,  # `[B,H,segments,blocks]`
    heads, length, width, value_width, blocks, segments, segment_chunks,
    MAP: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, D_BLOCK: tl.constexpr, M_BLOCK: tl.constexpr,
):  # fmt: skip
    """The derivative of the loss for β, of one block of v's columns over one segment of one head.

    s' = ∂s/∂β and P' = ∂P/∂β follow P'_i = β P'_{i-1} + P_{i-1} and s'_i = s'_{i-1} + P'_i, over a chunk with the derivatives of
    w, a and βⁿ. Begun with zeros at the segment's start, they say what β changes within it, Σ_i ρ_i g_i·(q_iᵀ s'_i), and at its
    end, times the gradients for s and P there, what it changes of all that follows: no segment waits for another.
    """
    program = tl.program_id(0)
    block, segment = program % blocks, program // blocks % segments
    place = (program // blocks // segments).to(tl.int64)
    head = place % heads
    row, start_of_all, own_length = sequence(bounds, place // heads, length)
    q, k = rows_of(q, row, head, start_of_all), rows_of(k, row, head, start_of_all)
    v, grad = rows_of(v, row, head, start_of_all), rows_of(grad, row, head, start_of_all)
    numbers = (row * heads + head) * length + start_of_all
    table = table.first + head * table.strides[0]
    columns, value_columns = tl.arange(0, D_BLOCK), block * M_BLOCK + tl.arange(0, M_BLOCK)
    in_state = (place * segments + segment) * width * value_width + columns[:, None] * value_width + value_columns[None, :]
    state_mask = (columns < width)[:, None] & (value_columns < value_width)[None, :]
    s_slope = tl.zeros([D_BLOCK, M_BLOCK], tl.float32)
    p_slope = s_slope
    p = s_slope
    if entering.second is not None:
        p = tl.load(entering.second + in_state, mask=state_mask, other=0)
    total_slope = tl.zeros([CHUNK], tl.float32)
    begin = segment * segment_chunks
    position = tl.arange(0, CHUNK)
    ordered = position[:, None] >= position[None, :]
    for chunk in range(begin, tl.minimum(begin + segment_chunks, tl.cdiv(own_length, CHUNK))):
        start = chunk * CHUNK
        rows = start + position
        inside = rows < own_length
        real, rank, total = count_keys(padding, row, rows, position, start, own_length, CHUNK)
        q_rows = load_rows(q, rows, columns, inside, width, MAP, OPERAND)
        k_rows = load_rows(k, rows, columns, real, width, MAP, OPERAND)
        v_rows = load_rows(v, rows, value_columns, real, value_width, False, OPERAND)
        g_rows = load_rows(grad, rows, value_columns, inside, value_width, False, tl.float32)

        steps = tl.where(ordered, rank[:, None] - rank[None, :], 0)
        scores = multiply(q_rows, tl.trans(k_rows), PRECISION) * look_up(table, GROWTH_SLOPE, steps, CHUNK)
        change = multiply(q_rows, p_slope, PRECISION) * look_up(table, ENTRY, rank, CHUNK)[:, None]
        change += multiply(q_rows, p, PRECISION) * look_up(table, GROWTH_SLOPE, rank, CHUNK)[:, None]
        change = multiply(q_rows, s_slope, PRECISION, change)
        change = multiply(nearest(tl.where(ordered, scores, 0), OPERAND), v_rows, PRECISION, change)
        total_slope += tl.sum(g_rows * change, 1) * tl.load(rho + numbers + rows, mask=inside, other=0)

        k_rows, v_rows, further = tl.trans(k_rows), v_rows.to(tl.float32), total - rank
        loss, growth_slope = look_up(table, LOSS, total, CHUNK), look_up(table, GROWTH_SLOPE, total, CHUNK)
        s_slope += look_up(table, ENTRY, total, CHUNK) * p_slope + growth_slope * p
        s_slope = multiply(k_rows, v_rows * look_up(table, GROWTH_SLOPE, further, CHUNK)[:, None], PRECISION, s_slope)
        p_slope += loss * p_slope + look_up(table, DECAY_SLOPE, total, CHUNK) * p
        p_slope = multiply(k_rows, v_rows * look_up(table, DECAY_SLOPE, further, CHUNK)[:, None], PRECISION, p_slope)
        p += loss * p
        p = multiply(k_rows, v_rows * look_up(table, DECAY, further, CHUNK)[:, None], PRECISION, p)

    result = tl.sum(total_slope, 0)
    if leaving.first is not None:
        changes = s_slope * tl.load(leaving.first + in_state, mask=state_mask, other=0)
        changes += p_slope * tl.load(leaving.second + in_state, mask=state_mask, other=0)
        result += tl.sum(tl.sum(changes, 1), 0)
    tl.store(slope + program, result)
