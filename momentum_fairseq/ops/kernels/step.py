"""One position of causal linear or momentum attention, all heads in one launch: φ, the new state, and what the query reads of it.

Few heads with large states take two launches: several programs share a head, and z is written after all of them have read it.

Nothing waits for the device, so a CUDA graph can hold it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from momentum_fairseq.ops.kernels.causal import check_one_device
from momentum_fairseq.ops.kernels.tiles import features, load_rows, power_of_two, rows_contiguous, store_rows

STATE_TILE = 64 * 64  # numbers of each state at a time


@triton.jit
def advance_and_read(
    q, k, v, s, m, z, from_s, from_m, from_z, out, beta, gamma,
    q_strides, k_strides, v_strides, out_strides, s_strides, m_strides, z_strides,
    from_s_strides, from_m_strides, from_z_strides,
    loss, step_size, eps, H, D, M, columns,
    FRESH: tl.constexpr, MAPPED: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """m ← β m − k vᵀ, s ← s − γ m, z ← z + k, out = qᵀ s / (q·z + eps) of one head; without m, s ← s + k vᵀ.

    Of some columns of one head where several programs share it: then none of them writes z, which all read.
    """
    bh = tl.program_id(0).to(tl.int64)
    b, h = bh // H, bh % H
    x = one_row(q, q_strides, b, h, D, MAPPED, BLOCK_D)
    y = one_row(k, k_strides, b, h, D, MAPPED, BLOCK_D)
    d = tl.arange(0, BLOCK_D)
    total = y
    if not FRESH:
        total += tl.load(from_z + b * from_z_strides[0] + h * from_z_strides[1] + d, mask=d < D, other=0.0)
    if tl.num_programs(1) == 1:
        tl.store(z + b * z_strides[0] + h * z_strides[1] + d, total, mask=d < D)
    denominator = tl.sum(x * total, 0) + eps
    if beta is not None:
        loss = 1.0 - tl.load(beta + h)
    if gamma is not None:
        step_size = tl.load(gamma + h)
    begin = tl.program_id(1) * columns
    for first in range(begin, tl.minimum(begin + columns, M), BLOCK_M):
        column = first + tl.arange(0, BLOCK_M)
        value = tl.load(v + b * v_strides[0] + h * v_strides[1] + column, mask=column < M, other=0.0).to(tl.float32)
        added = y[:, None] * value[None, :]
        width = M - first
        if m is not None:
            velocity = -added
            if not FRESH:
                at = from_m + b * from_m_strides[0] + h * from_m_strides[1] + first
                before = load_rows(at, 0, D, from_m_strides[2], width, BLOCK_D, BLOCK_M)
                # Not β m: the rounding of β, the same at each step, would add up over them as β → 1.
                velocity += before - loss * before
            at = m + b * m_strides[0] + h * m_strides[1] + first
            store_rows(at, velocity, 0, D, m_strides[2], width, BLOCK_D, BLOCK_M)
            added = -step_size * velocity
        state = added
        if not FRESH:
            at = from_s + b * from_s_strides[0] + h * from_s_strides[1] + first
            state += load_rows(at, 0, D, from_s_strides[2], width, BLOCK_D, BLOCK_M)
        at = s + b * s_strides[0] + h * s_strides[1] + first
        store_rows(at, state, 0, D, s_strides[2], width, BLOCK_D, BLOCK_M)
        read = (tl.sum(x[:, None] * state, 0) / denominator)[None, :]
        at = out + b * out_strides[0] + h * out_strides[1] + first
        store_rows(at, read, 0, 1, 0, width, 1, BLOCK_M)


@triton.jit
def add_key(
    k, z, from_z, k_strides, z_strides, from_z_strides, H, D, FRESH: tl.constexpr, MAPPED: tl.constexpr, BLOCK_D: tl.constexpr
):
    """z ← z + k of one head."""
    bh = tl.program_id(0).to(tl.int64)
    b, h = bh // H, bh % H
    total = one_row(k, k_strides, b, h, D, MAPPED, BLOCK_D)
    d = tl.arange(0, BLOCK_D)
    if not FRESH:
        total += tl.load(from_z + b * from_z_strides[0] + h * from_z_strides[1] + d, mask=d < D, other=0.0)
    tl.store(z + b * z_strides[0] + h * z_strides[1] + d, total, mask=d < D)


@triton.jit
def one_row(x, strides, b, h, width, MAPPED: tl.constexpr, BLOCK: tl.constexpr):
    """φ of row (b, h) of `[B,H,D]`, float32 `[BLOCK]`."""
    row = features(load_rows(x + b * strides[0] + h * strides[1], 0, 1, 0, width, 1, BLOCK), 0, 1, width, MAPPED, 1, BLOCK)
    return tl.sum(row, 0)


@torch.library.custom_op("momentum_fairseq::attention_step", mutates_args=("out", "s", "m", "z"))
def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    s: Tensor,
    m: Tensor | None,
    z: Tensor,
    source_s: Tensor | None,
    source_m: Tensor | None,
    source_z: Tensor | None,
    fresh: bool,
    beta: Tensor | None,
    gamma: Tensor | None,
    momentum: float,
    step_size: float,
    eps: float,
    mapped: bool,
) -> None:
    """Write the new state over s, m, z, float32, and what q `[B,H,D]` reads of it into out `[B,H,M]`.

    The old state is there too; or in the sources, where they are given; or, where `fresh`, there is none. Without m it is
    linear attention. β and γ are `beta` and `gamma` `[H]`, float32, where given, else `momentum` and `step_size`.
    """
    before = (s, m, z) if source_s is None else (source_s, source_m, source_z)
    q, k, v = (rows_contiguous(x) for x in (q, k, v))
    (batch, heads, dim), value_dim = q.shape, v.shape[2]
    block = power_of_two(dim)
    block_m = min(power_of_two(value_dim), max(16, STATE_TILE // block))
    splits = number_of_splits(q.device, batch * heads, triton.cdiv(value_dim, block_m))
    columns = triton.cdiv(triton.cdiv(value_dim, block_m), splits) * block_m
    strides = [() if x is None else x.stride() for x in (q, k, v, out, s, m, z, *before)]
    flags = {"FRESH": fresh, "MAPPED": mapped, "BLOCK_D": block}
    with torch.cuda.device_of(q):
        advance_and_read[(batch * heads, triton.cdiv(value_dim, columns))](
            q, k, v, s, m, z, *before, out, beta, gamma, *strides, 1 - momentum, step_size, eps,
            heads, dim, value_dim, columns, BLOCK_M=block_m, **flags,
        )  # fmt: skip
        if columns < value_dim:
            source = before[2]
            add_key[(batch * heads,)](k, z, source, k.stride(), z.stride(), source.stride(), heads, dim, **flags)


def number_of_splits(device: torch.device, programs: int, blocks: int) -> int:
    """How many programs share the columns of a head, `blocks` tiles of them; `programs` heads are at work.

    1 where the heads alone fill half of the device, or their states are small, since z then takes a launch of its own.
    """
    if device.type != "cuda" or blocks < 4:
        return 1
    return min(blocks, max(1, torch.cuda.get_device_properties(device).multi_processor_count // max(1, programs)))


State = tuple[Tensor, Tensor | None, Tensor]


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    *,
    momentum: float | Tensor | None,
    step_size: float | Tensor = 1.0,
    eps: float = 1e-6,
    in_place: bool = False,
    mapped: bool = True,
) -> tuple[Tensor, State]:
    """One position, without gradients; arguments of `momentum_attention_step`, checked.

    Args:
        state: s, m, z before it (m is not read without momentum); None = there are no positions before.
        momentum: None = linear attention.
        in_place: write the new state over the given one, which must then be float32 with contiguous rows.
        mapped: whether q and k are feature-mapped; elu + 1 is applied to them if not.

    Returns:
        `[B,H,M]` in v's dtype, and s, m (None without momentum), z.

    Raises:
        ValueError: tensors on several devices.
    """
    per_head = [x for x in (momentum, step_size) if isinstance(x, Tensor) and x.dim()]
    check_one_device(q, k, v, *(state or ()), *per_head)
    out = v.new_empty(v.shape)
    before = None if state is None else [rows_contiguous(x.float()) for x in without_velocity(state, momentum)]
    overwrite = in_place and before is not None
    after = before if overwrite else new_state(k, v, momentum)
    sources = (None,) * 3 if overwrite or before is None else with_velocity(before)
    per_head = (x.float().expand(q.shape[1]).contiguous() if isinstance(x, Tensor) else None for x in (momentum, step_size))
    numbers = (0.0 if x is None or isinstance(x, Tensor) else float(x) for x in (momentum, step_size))
    s, m, z = with_velocity(after)
    attention_step(q, k, v, out, s, m, z, *sources, before is None, *per_head, *numbers, eps, mapped)
    return out, (s, m, z)


def new_state(k: Tensor, v: Tensor, momentum: float | Tensor | None) -> list[Tensor]:
    """Unset s, with momentum m, and z, float32."""
    shapes = [(*k.shape, v.shape[2])] * (1 if momentum is None else 2)
    return [k.new_empty(shape, dtype=torch.float32) for shape in (*shapes, k.shape)]


def without_velocity(state: State, momentum: float | Tensor | None) -> tuple[Tensor, ...]:
    """s and z of linear attention, s, m, z with momentum."""
    return (state[0], state[2]) if momentum is None else state


def with_velocity(state: list[Tensor]) -> State:
    """s, m, z; m is None where there is none."""
    return state[0], state[1] if len(state) == 3 else None, state[-1]
