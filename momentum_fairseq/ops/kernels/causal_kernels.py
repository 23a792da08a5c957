"""Causal momentum attention in Triton, forward and backward (Nguyen et al., "Momentum Transformer", MSML 2022, Eq. 12).

With P = −m, and s divided by γ, the recurrence over the real keys is

    P_i = β P_{i-1} + k_i v_iᵀ        s_i = s_{i-1} + P_i        z_i = z_{i-1} + k_i
    o_i = γ q_iᵀ s_i / n_i        n_i = q_iᵀ z_i + eps

and a chunk of R real keys, key j the r_j-th of them, takes (s, P) to

    s' = s + a_R P + Σ_j w_{R−r_j} k_j v_jᵀ        P' = β^R P + Σ_j β^{R−r_j} k_j v_jᵀ
    q_iᵀ s_i = q_iᵀ s + a_{r_i} q_iᵀ P + Σ_{j≤i} w_{r_i−r_j} (q_i·k_j) v_j

with w_n = 1 + β + … + βⁿ and a_n = β + … + βⁿ: nothing is ever subtracted. With g_i the gradient for o_i, ρ_i = γ / n_i and
δ_i = −(g_i·o_i) / n_i, the gradients for (s, P) go through the same chunk backwards in time, and those for q, k, v are

    dq_i = Σ_{j≤i} (ρ_i w_{r_i−r_j} (g_i·v_j) + δ_i) k_j        dk_j = Σ_{i≥j} (ρ_i w_{r_i−r_j} (v_j·g_i) + δ_i) q_i
    dv_j = Σ_{i≥j} ρ_i w_{r_i−r_j} (k_j·q_i) g_i

So all four are one algorithm, `attend`: row x_i times the rows y_j up to it (from it on where REVERSE), weighted, times u_j.

    out    x  y  u    REVERSE
    o      q  k  v    no         NORMALISE: divided by n
    dq     g  v  k    no         BIAS: δ added to the weights
    dk     v  g  q    yes        BIAS
    dv     k  q  g    yes

A program walks over the chunks of one segment of one head with the state of a block of u's columns in registers. Where heads are
too few to fill the device, `summarise` takes what each of several segments adds to the state, and `scan` makes the states that
enter them. Sums are float32, and nothing is summed in an order that changes (no atomics).
"""

import triton
import triton.language as tl

from momentum_fairseq.ops.kernels.tiles import INTERPRETED

# Rows of the table of weights `[H or 1,6,CHUNK+1]`: w_n, a_n, βⁿ, βⁿ − 1, and the derivatives for β of w_n (and a_n) and of βⁿ.
# A state loses (βⁿ − 1) of itself: a rounded βⁿ near one would be wrong to the same side in every chunk.
GROWTH, ENTRY, DECAY, LOSS, GROWTH_SLOPE, DECAY_SLOPE = (tl.constexpr(i) for i in range(6))


@triton.jit
def elu_plus_one(x):
    return tl.where(x > 0, x + 1, tl.exp(tl.minimum(x, 0)))


@triton.jit
def load_rows(X, stride, rows, columns, wanted, width, MAP: tl.constexpr, OPERAND: tl.constexpr):
    """`[CHUNK,BLOCK]`: zeros where a row isn't wanted, whatever it holds, and right of the width."""
    mask = wanted[:, None] & (columns < width)[None, :]
    x = tl.load(X + rows[:, None].to(tl.int64) * stride[2] + columns[None, :] * stride[3], mask=mask, other=0)
    if MAP:
        x = tl.where(mask, elu_plus_one(x.to(tl.float32)), 0)
    return nearest(x, OPERAND)


@triton.jit
def count_keys(Padding, stride, rows, position, start, length, PADDED: tl.constexpr, CHUNK: tl.constexpr):
    """Which rows are real keys, the number of real keys of the chunk up to each row, and in all of it."""
    inside = rows < length
    if PADDED:
        real = tl.load(Padding + rows.to(tl.int64) * stride[1], mask=inside, other=1) == 0
        rank = tl.cumsum(real.to(tl.int32), 0)
        total = tl.sum(real.to(tl.int32), 0)
    else:
        real = inside
        total = tl.minimum(length - start, CHUNK)
        rank = tl.minimum(position + 1, total)
    return real, rank, total


@triton.jit
def look_up(Table, row: tl.constexpr, count, CHUNK: tl.constexpr):
    return tl.load(Table + row * (CHUNK + 1) + count)


@triton.jit
def nearest(x, DTYPE: tl.constexpr):
    """x rounded to the nearest, by hand in the interpreter, which truncates to bfloat16."""
    if INTERPRETED:  # noqa: SIM102 (a compiled kernel reads no further)
        if DTYPE is tl.bfloat16 and x.dtype is tl.float32:
            bits = x.to(tl.int32, bitcast=True)
            x = (bits + 32767 + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def multiply(x, y, PRECISION: tl.constexpr):
    """x y, summed in float32; y is rounded to x's dtype."""
    y = nearest(y, x.dtype)
    if INTERPRETED:  # it would multiply the bits of bfloat16 numbers
        return tl.dot(x.to(tl.float32), y.to(tl.float32))
    return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def advance(
    first,
    second,
    y,
    u,
    Table,
    rank,
    total,
    MOMENTUM: tl.constexpr,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """(s, P), or where REVERSE their gradients, over one chunk; y is `[CHUNK,D]`, u float32 `[CHUNK,M]`."""
    y = tl.trans(y)
    if MOMENTUM:
        entry, loss = look_up(Table, ENTRY, total, CHUNK), look_up(Table, LOSS, total, CHUNK)
        if REVERSE:
            added = multiply(y, u * look_up(Table, ENTRY, rank, CHUNK)[:, None], PRECISION)
            second += loss * second + entry * first + added
            first += multiply(y, u, PRECISION)
        else:
            first += entry * second + multiply(y, u * look_up(Table, GROWTH, total - rank, CHUNK)[:, None], PRECISION)
            second += loss * second + multiply(y, u * look_up(Table, DECAY, total - rank, CHUNK)[:, None], PRECISION)
    else:
        first += multiply(y, u, PRECISION)
    return first, second


@triton.jit
def attend(
    X,
    Y,
    U,
    Out,
    Raw,  # out's own rows before the feature map, for its derivative
    Normaliser,  # n, written where NORMALISE
    Rho,
    Delta,
    Padding,
    Table,
    Gamma,
    First,  # what enters each segment: `[B,H,segments,D,M]` twice, and `[B,H,segments,D]`
    Second,
    Sums,
    LastFirst,  # what leaves the last one (the first where REVERSE)
    LastSecond,
    LastSums,
    x_stride,
    y_stride,
    u_stride,
    out_stride,
    raw_stride,
    padding_stride,
    state_stride,  # of x's and of u's columns in the state
    table_stride,
    gamma_stride,
    heads,
    length,
    x_width,
    u_width,
    blocks,
    segments,
    segment_chunks,
    eps,
    MOMENTUM: tl.constexpr,
    REVERSE: tl.constexpr,
    NORMALISE: tl.constexpr,
    BIAS: tl.constexpr,
    PADDED: tl.constexpr,
    ENTERS: tl.constexpr,
    STORE_STATE: tl.constexpr,
    STORE_SUMS: tl.constexpr,
    MAP_XY: tl.constexpr,
    MAP_U: tl.constexpr,
    MAP_OUT: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    X_BLOCK: tl.constexpr,
    U_BLOCK: tl.constexpr,
):
    """One block of columns of out, over one segment of one head (see the top of the file)."""
    program = tl.program_id(0)
    block, segment = program % blocks, program // blocks % segments
    row = (program // blocks // segments).to(tl.int64)
    batch, head = row // heads, row % heads
    X += batch * x_stride[0] + head * x_stride[1]
    Y += batch * y_stride[0] + head * y_stride[1]
    U += batch * u_stride[0] + head * u_stride[1]
    Out += batch * out_stride[0] + head * out_stride[1]
    Raw += batch * raw_stride[0] + head * raw_stride[1]
    Padding += batch * padding_stride[0]
    Table += head * table_stride
    x_columns, u_columns = tl.arange(0, X_BLOCK), block * U_BLOCK + tl.arange(0, U_BLOCK)
    in_x, in_u = x_columns < x_width, u_columns < u_width
    sum_columns, in_sums, sum_width = (x_columns, in_x, x_width) if NORMALISE else (u_columns, in_u, u_width)
    in_state = x_columns[:, None] * state_stride[0] + u_columns[None, :] * state_stride[1]
    state_mask = in_x[:, None] & in_u[None, :]

    first = tl.zeros([X_BLOCK, U_BLOCK], tl.float32)
    second = first
    sums = tl.zeros([X_BLOCK if NORMALISE else U_BLOCK], tl.float32)
    if ENTERS:
        here = (row * segments + segment) * x_width * u_width
        first = tl.load(First + here + in_state, mask=state_mask, other=0)
        if MOMENTUM:
            second = tl.load(Second + here + in_state, mask=state_mask, other=0)
        if NORMALISE or BIAS:
            sums = tl.load(Sums + (row * segments + segment) * sum_width + sum_columns, mask=in_sums, other=0)

    begin = segment * segment_chunks
    chunks = tl.minimum(segment_chunks, tl.cdiv(length, CHUNK) - begin)
    position = tl.arange(0, CHUNK)
    ordered = position[:, None] <= position[None, :] if REVERSE else position[:, None] >= position[None, :]
    for turn in range(0, chunks):
        start = (begin + (chunks - 1 - turn if REVERSE else turn)) * CHUNK
        rows = start + position
        inside = rows < length
        real, rank, total = count_keys(Padding, padding_stride, rows, position, start, length, PADDED, CHUNK)
        x = load_rows(X, x_stride, rows, x_columns, real if REVERSE else inside, x_width, MAP_XY, OPERAND)
        y = load_rows(Y, y_stride, rows, x_columns, inside if REVERSE else real, x_width, MAP_XY, OPERAND)
        u = load_rows(U, u_stride, rows, u_columns, inside if REVERSE else real, u_width, MAP_U, OPERAND)

        scores = multiply(x, tl.trans(y), PRECISION)
        if NORMALISE:
            normaliser = tl.sum(tl.where(ordered, scores, 0), 1) + tl.sum(x.to(tl.float32) * sums[None, :], 1) + eps
        else:
            rho = tl.load(Rho + row * length + rows, mask=inside, other=0)
            scores *= rho[None, :] if REVERSE else rho[:, None]
        if MOMENTUM:
            distance = rank[None, :] - rank[:, None] if REVERSE else rank[:, None] - rank[None, :]
            scores *= look_up(Table, GROWTH, tl.where(ordered, distance, 0), CHUNK)
        if BIAS:
            delta = tl.load(Delta + row * length + rows, mask=inside, other=0)
            scores += delta[None, :] if REVERSE else delta[:, None]
        out = multiply(nearest(tl.where(ordered, scores, 0), OPERAND), u, PRECISION)

        read = multiply(x, first, PRECISION)
        if MOMENTUM:
            if REVERSE:
                read *= look_up(Table, GROWTH, total - rank, CHUNK)[:, None]
                read += look_up(Table, DECAY, total - rank, CHUNK)[:, None] * multiply(x, second, PRECISION)
            else:
                read += look_up(Table, ENTRY, rank, CHUNK)[:, None] * multiply(x, second, PRECISION)
        if NORMALISE:
            out = tl.load(Gamma + head * gamma_stride) * (out + read) / normaliser[:, None]
            tl.store(Normaliser + row * length + rows, normaliser, mask=inside & (block == 0))
        elif REVERSE:
            out += read
        else:
            out += rho[:, None] * read
        if BIAS:
            out += sums[None, :] if REVERSE else delta[:, None] * sums[None, :]
        if MAP_OUT:
            raw = load_rows(Raw, raw_stride, rows, u_columns, real if REVERSE else inside, u_width, False, tl.float32)
            out *= tl.exp(tl.minimum(raw, 0))
        if REVERSE and PADDED:
            out = tl.where(real[:, None], out, 0)
        at = rows[:, None].to(tl.int64) * out_stride[2] + u_columns[None, :] * out_stride[3]
        tl.store(Out + at, nearest(out, Out.dtype.element_ty), mask=inside[:, None] & in_u[None, :])

        u = u.to(tl.float32)
        if NORMALISE:
            sums += tl.sum(y.to(tl.float32), 0)
        if BIAS:
            sums += tl.sum(delta[:, None] * u, 0) if REVERSE else tl.sum(u, 0)
        if REVERSE:
            u *= rho[:, None]
        first, second = advance(first, second, y, u, Table, rank, total, MOMENTUM, REVERSE, PRECISION, CHUNK)

    if segment == (0 if REVERSE else segments - 1):
        if STORE_STATE:
            here = row * x_width * u_width
            tl.store(LastFirst + here + in_state, first, mask=state_mask)
            if MOMENTUM:
                tl.store(LastSecond + here + in_state, second, mask=state_mask)
        if STORE_SUMS:
            tl.store(LastSums + row * sum_width + sum_columns, sums, mask=in_sums & (not NORMALISE or block == 0))


@triton.jit
def summarise(
    Y,
    U,
    Rho,
    Delta,
    Padding,
    Table,
    First,
    Second,
    Sums,
    Carry,  # `[B,H,segments,2]`: a and β^R − 1 of the segment
    y_stride,
    u_stride,
    padding_stride,
    table_stride,
    heads,
    length,
    y_width,
    u_width,
    y_blocks,
    u_blocks,
    segments,
    segment_chunks,
    MOMENTUM: tl.constexpr,
    REVERSE: tl.constexpr,
    PADDED: tl.constexpr,
    MAP_Y: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    Y_BLOCK: tl.constexpr,
    U_BLOCK: tl.constexpr,
):
    """What one segment of one head adds to a block of (s, P) and to z, of y = k and u = v; of q and g where REVERSE."""
    program = tl.program_id(0)
    u_block, y_block = program % u_blocks, program // u_blocks % y_blocks
    segment = program // u_blocks // y_blocks % segments
    row = (program // u_blocks // y_blocks // segments).to(tl.int64)
    batch, head = row // heads, row % heads
    Y += batch * y_stride[0] + head * y_stride[1]
    U += batch * u_stride[0] + head * u_stride[1]
    Padding += batch * padding_stride[0]
    Table += head * table_stride
    y_columns, u_columns = y_block * Y_BLOCK + tl.arange(0, Y_BLOCK), u_block * U_BLOCK + tl.arange(0, U_BLOCK)

    first = tl.zeros([Y_BLOCK, U_BLOCK], tl.float32)
    second = first
    sums = tl.zeros([Y_BLOCK], tl.float32)
    entry, loss = 0.0, 0.0
    begin = segment * segment_chunks
    chunks = tl.minimum(segment_chunks, tl.cdiv(length, CHUNK) - begin)
    position = tl.arange(0, CHUNK)
    for turn in range(0, chunks):
        start = (begin + (chunks - 1 - turn if REVERSE else turn)) * CHUNK
        rows = start + position
        real, rank, total = count_keys(Padding, padding_stride, rows, position, start, length, PADDED, CHUNK)
        wanted = rows < length if REVERSE else real
        y = load_rows(Y, y_stride, rows, y_columns, wanted, y_width, MAP_Y, OPERAND)
        u = load_rows(U, u_stride, rows, u_columns, wanted, u_width, False, tl.float32)
        if REVERSE:
            u *= tl.load(Rho + row * length + rows, mask=wanted, other=0)[:, None]
            delta = tl.load(Delta + row * length + rows, mask=wanted, other=0)
            sums += tl.sum(delta[:, None] * y.to(tl.float32), 0)
        else:
            sums += tl.sum(y.to(tl.float32), 0)
        first, second = advance(first, second, y, u, Table, rank, total, MOMENTUM, REVERSE, PRECISION, CHUNK)
        if MOMENTUM:
            more = look_up(Table, LOSS, total, CHUNK)
            entry += look_up(Table, ENTRY, total, CHUNK) * (1 + loss)
            loss += more + more * loss

    here = row * segments + segment
    in_state = y_columns[:, None] * u_width + u_columns[None, :]
    mask = (y_columns < y_width)[:, None] & (u_columns < u_width)[None, :]
    tl.store(First + here * y_width * u_width + in_state, first, mask=mask)
    if MOMENTUM:
        tl.store(Second + here * y_width * u_width + in_state, second, mask=mask)
        if (u_block == 0) & (y_block == 0):
            tl.store(Carry + here * 2, entry)
            tl.store(Carry + here * 2 + 1, loss)
    tl.store(Sums + here * y_width + y_columns, sums, mask=(y_columns < y_width) & (u_block == 0))


@triton.jit
def scan(
    First,
    Second,
    Carry,
    InitialFirst,
    InitialSecond,
    size,
    blocks,
    segments,
    MOMENTUM: tl.constexpr,
    REVERSE: tl.constexpr,
    ENTERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What each segment adds to the state, `[B,H,segments,size]`, becomes the state that enters it."""
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    place = program % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    first = tl.zeros([BLOCK], tl.float32)
    second = first
    if ENTERS:
        first = tl.load(InitialFirst + row * size + place, mask=mask, other=0)
        if MOMENTUM:
            second = tl.load(InitialSecond + row * size + place, mask=mask, other=0)
    for turn in range(0, segments):
        segment = row * segments + (segments - 1 - turn if REVERSE else turn)
        at = segment * size + place
        added = tl.load(First + at, mask=mask, other=0)
        tl.store(First + at, first, mask=mask)
        if MOMENTUM:
            more = tl.load(Second + at, mask=mask, other=0)
            tl.store(Second + at, second, mask=mask)
            entry, loss = tl.load(Carry + segment * 2), tl.load(Carry + segment * 2 + 1)
            if REVERSE:
                second += loss * second + entry * first + more
            else:
                first += entry * second
                second += loss * second + more
        first += added


@triton.jit
def prepare_gradients(
    Out,
    Grad,
    Normaliser,
    Gamma,
    Rho,
    Delta,
    out_stride,
    grad_stride,
    gamma_stride,
    heads,
    length,
    width,
    row_blocks,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ρ = γ / n and δ = −(g·o) / n of some rows of one head."""
    program = tl.program_id(0)
    row = (program // row_blocks).to(tl.int64)
    batch, head = row // heads, row % heads
    rows, columns = program % row_blocks * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = rows < length
    Out += batch * out_stride[0] + head * out_stride[1]
    Grad += batch * grad_stride[0] + head * grad_stride[1]
    out = load_rows(Out, out_stride, rows, columns, inside, width, False, tl.float32)
    grad = load_rows(Grad, grad_stride, rows, columns, inside, width, False, tl.float32)
    normaliser = tl.load(Normaliser + row * length + rows, mask=inside, other=1)
    tl.store(Rho + row * length + rows, tl.load(Gamma + head * gamma_stride) / normaliser, mask=inside)
    tl.store(Delta + row * length + rows, -tl.sum(out * grad, 1) / normaliser, mask=inside)


@triton.jit
def differentiate_momentum(
    Q,
    K,
    V,
    Grad,
    Rho,
    Padding,
    Table,
    Second,  # P before the first key, `[B,H,D,M]`
    GradFirst,  # for s and P after the last one
    GradSecond,
    Slope,  # `[B,H,blocks]`
    q_stride,
    k_stride,
    v_stride,
    grad_stride,
    padding_stride,
    table_stride,
    heads,
    length,
    width,
    value_width,
    blocks,
    PADDED: tl.constexpr,
    ENTERS: tl.constexpr,
    LEAVES: tl.constexpr,
    MAP: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    D_BLOCK: tl.constexpr,
    M_BLOCK: tl.constexpr,
):
    """The derivative of the loss for β, of one block of v's columns of one head: forward in time, with s' = ∂s/∂β, P' = ∂P/∂β.

    P'_i = β P'_{i-1} + P_{i-1} and s'_i = s'_{i-1} + P'_i, over a chunk with the derivatives of w, a and βⁿ; and the loss changes
    by Σ_i ρ_i g_i·(q_iᵀ s'_i).
    """
    program = tl.program_id(0)
    block = program % blocks
    row = (program // blocks).to(tl.int64)
    batch, head = row // heads, row % heads
    Q += batch * q_stride[0] + head * q_stride[1]
    K += batch * k_stride[0] + head * k_stride[1]
    V += batch * v_stride[0] + head * v_stride[1]
    Grad += batch * grad_stride[0] + head * grad_stride[1]
    Padding += batch * padding_stride[0]
    Table += head * table_stride
    columns, value_columns = tl.arange(0, D_BLOCK), block * M_BLOCK + tl.arange(0, M_BLOCK)
    in_state = row * width * value_width + columns[:, None] * value_width + value_columns[None, :]
    state_mask = (columns < width)[:, None] & (value_columns < value_width)[None, :]
    first_slope = tl.zeros([D_BLOCK, M_BLOCK], tl.float32)
    second_slope = first_slope
    second = first_slope
    if ENTERS:
        second = tl.load(Second + in_state, mask=state_mask, other=0)
    slope = tl.zeros([CHUNK], tl.float32)
    position = tl.arange(0, CHUNK)
    ordered = position[:, None] >= position[None, :]
    for chunk in range(0, tl.cdiv(length, CHUNK)):
        start = chunk * CHUNK
        rows = start + position
        inside = rows < length
        real, rank, total = count_keys(Padding, padding_stride, rows, position, start, length, PADDED, CHUNK)
        q = load_rows(Q, q_stride, rows, columns, inside, width, MAP, OPERAND)
        k = load_rows(K, k_stride, rows, columns, real, width, MAP, OPERAND)
        v = load_rows(V, v_stride, rows, value_columns, real, value_width, False, OPERAND)
        grad = load_rows(Grad, grad_stride, rows, value_columns, inside, value_width, False, tl.float32)

        distance = tl.where(ordered, rank[:, None] - rank[None, :], 0)
        scores = multiply(q, tl.trans(k), PRECISION) * look_up(Table, GROWTH_SLOPE, distance, CHUNK)
        read = multiply(nearest(tl.where(ordered, scores, 0), OPERAND), v, PRECISION)
        read += multiply(q, first_slope, PRECISION)
        read += look_up(Table, ENTRY, rank, CHUNK)[:, None] * multiply(q, second_slope, PRECISION)
        read += look_up(Table, GROWTH_SLOPE, rank, CHUNK)[:, None] * multiply(q, second, PRECISION)
        slope += tl.sum(grad * read, 1) * tl.load(Rho + row * length + rows, mask=inside, other=0)

        k, v, further = tl.trans(k), v.to(tl.float32), total - rank
        entry, loss = look_up(Table, ENTRY, total, CHUNK), look_up(Table, LOSS, total, CHUNK)
        first_slope += entry * second_slope + look_up(Table, GROWTH_SLOPE, total, CHUNK) * second
        first_slope += multiply(k, v * look_up(Table, GROWTH_SLOPE, further, CHUNK)[:, None], PRECISION)
        second_slope += loss * second_slope + look_up(Table, DECAY_SLOPE, total, CHUNK) * second
        second_slope += multiply(k, v * look_up(Table, DECAY_SLOPE, further, CHUNK)[:, None], PRECISION)
        second += loss * second + multiply(k, v * look_up(Table, DECAY, further, CHUNK)[:, None], PRECISION)

    result = tl.sum(slope, 0)
    if LEAVES:
        changes = first_slope * tl.load(GradFirst + in_state, mask=state_mask, other=0)
        changes += second_slope * tl.load(GradSecond + in_state, mask=state_mask, other=0)
        result += tl.sum(tl.sum(changes, 1), 0)
    tl.store(Slope + program, result)
