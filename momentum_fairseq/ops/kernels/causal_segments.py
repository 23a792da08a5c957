"""The states that enter each of several segments of a sequence, of which the segments are then walked over at the same time."""

import triton
import triton.language as tl

from momentum_fairseq.ops.kernels.causal_tiles import (
    ENTRY,
    LOSS,
    advance,
    count_keys,
    load_rows,
    look_up,
    rows_of,
)
from momentum_fairseq.ops.kernels.sequences import sequence


@triton.jit
def summarise(
    y, u, rho, delta, padding, bounds, table,
    added,  # States `[B,H,segments,..]` to write
    carry,  # `[B,H,segments,2]`: a and β^R − 1 of the segment
    heads, length, y_width, u_width, y_blocks, u_blocks, segments, segment_chunks,
    REVERSE: tl.constexpr, MAP: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, Y_BLOCK: tl.constexpr, U_BLOCK: tl.constexpr,
):  # fmt: skip
    """What one segment of one head adds to a block of (s, P) and to z, of y = k and u = v; of q and g where REVERSE."""
    program = tl.program_id(0)
    u_block, y_block = program % u_blocks, program // u_blocks % y_blocks
    segment = program // u_blocks // y_blocks % segments
    place = (program // u_blocks // y_blocks // segments).to(tl.int64)
    head = place % heads
    row, start_of_all, own_length = sequence(bounds, place // heads, length)
    y, u = rows_of(y, row, head, start_of_all), rows_of(u, row, head, start_of_all)
    numbers = (row * heads + head) * length + start_of_all
    if table is not None:
        table = table.first + head * table.strides[0]
    y_columns, u_columns = y_block * Y_BLOCK + tl.arange(0, Y_BLOCK), u_block * U_BLOCK + tl.arange(0, U_BLOCK)

    first = tl.zeros([Y_BLOCK, U_BLOCK], tl.float32)
    second = first
    sums = tl.zeros([Y_BLOCK], tl.float32)
    entry, loss = 0.0, 0.0
    begin = segment * segment_chunks
    chunks = tl.minimum(segment_chunks, tl.cdiv(own_length, CHUNK) - begin)
    position = tl.arange(0, CHUNK)
    for turn in range(0, chunks):
        start = (begin + (chunks - 1 - turn if REVERSE else turn)) * CHUNK
        rows = start + position
        real, rank, total = count_keys(padding, row, rows, position, start, own_length, CHUNK)
        wanted = rows < own_length if REVERSE else real
        y_rows = load_rows(y, rows, y_columns, wanted, y_width, MAP, OPERAND)
        u_rows = load_rows(u, rows, u_columns, wanted, u_width, False, tl.float32)
        if REVERSE:
            u_rows *= tl.load(rho + numbers + rows, mask=wanted, other=0)[:, None]
            more = tl.load(delta + numbers + rows, mask=wanted, other=0)
            sums += tl.sum(more[:, None] * y_rows.to(tl.float32), 0)
        else:
            sums += tl.sum(y_rows.to(tl.float32), 0)
        first, second = advance(first, second, y_rows, u_rows, table, rank, total, REVERSE, PRECISION, CHUNK)
        if table is not None:
            more_loss = look_up(table, LOSS, total, CHUNK)
            entry += look_up(table, ENTRY, total, CHUNK) * (1 + loss)
            loss += more_loss + more_loss * loss

    here = place * segments + segment
    in_state = here * y_width * u_width + y_columns[:, None] * u_width + u_columns[None, :]
    mask = (y_columns < y_width)[:, None] & (u_columns < u_width)[None, :]
    tl.store(added.first + in_state, first, mask=mask)
    if table is not None:
        tl.store(added.second + in_state, second, mask=mask)
        if (u_block == 0) & (y_block == 0):
            tl.store(carry + here * 2, entry)
            tl.store(carry + here * 2 + 1, loss)
    tl.store(added.sums + here * y_width + y_columns, sums, mask=(y_columns < y_width) & (u_block == 0))


@triton.jit
def scan(first, second, carry, initial_first, initial_second, size, blocks, segments, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """What each segment adds to a state, `[B,H,segments,size]`, becomes the state that enters it; without `second` just sums."""
    program = tl.program_id(0)
    place = (program // blocks).to(tl.int64)
    column = program % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = column < size
    s = tl.zeros([BLOCK], tl.float32)
    p = s
    if initial_first is not None:
        s = tl.load(initial_first + place * size + column, mask=mask, other=0)
        if second is not None:
            p = tl.load(initial_second + place * size + column, mask=mask, other=0)
    for turn in range(0, segments):
        segment = place * segments + (segments - 1 - turn if REVERSE else turn)
        at = segment * size + column
        s_added = tl.load(first + at, mask=mask, other=0)
        tl.store(first + at, s, mask=mask)
        if second is not None:
            p_added = tl.load(second + at, mask=mask, other=0)
            tl.store(second + at, p, mask=mask)
            entry, loss = tl.load(carry + segment * 2), tl.load(carry + segment * 2 + 1)
            if REVERSE:
                p += loss * p + entry * s + p_added
            else:
                s += entry * p
                p += loss * p + p_added
        s += s_added
