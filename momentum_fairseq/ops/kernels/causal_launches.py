"""How the causal kernels are launched: sizes of tiles, number of segments, the table of weights, the order of the launches."""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from momentum_fairseq.ops.kernels.causal_kernels import attend, differentiate_momentum, prepare_gradients, scan, summarise
from momentum_fairseq.ops.kernels.tiles import power_of_two, precision


class Tile(NamedTuple):
    """Positions of a chunk, columns of the state that one program holds, warps of a program, loads ahead."""

    chunk: int
    columns: int
    warps: int
    stages: int


# By the architecture's major version, then whether operands take 2 bytes, then the largest contracted width. Pinned rather than
# searched for, so that the first call doesn't take seconds. Chosen by what ptxas says of registers and shared memory; not yet
# timed on any GPU.
HOPPER = {
    True: {64: Tile(64, 64, 8, 2), 128: Tile(64, 64, 8, 2), 256: Tile(64, 32, 8, 2)},
    False: {64: Tile(32, 32, 4, 2), 128: Tile(32, 32, 4, 2), 256: Tile(16, 32, 8, 1)},
}
AMPERE = {
    True: {64: Tile(64, 64, 4, 2), 128: Tile(64, 32, 4, 2), 256: Tile(32, 32, 8, 2)},
    False: {64: Tile(32, 32, 4, 2), 128: Tile(32, 32, 4, 1), 256: Tile(16, 32, 8, 1)},
}
TILES = {8: AMPERE, 9: HOPPER, 10: HOPPER}
SCAN_BLOCK, GRADIENT_ROWS = 1024, 32


class States(NamedTuple):
    """s / γ and −m `[B,H,D,M]` and z `[B,H,D]`, contiguous float32; or those that enter each segment, `[B,H,segments,..]`."""

    first: Tensor
    second: Tensor
    sums: Tensor


class Setting(NamedTuple):
    """What all kernels of one call share.

    Attributes:
        momentum: whether there is any; linear attention has one state, and no weights.
        table: of weights, `[H or 1,6,C+1]`; anything without momentum.
        gamma: γ, `[H]` or `[1]`, float32.
        padding: `[B,N]` uint8, 1 = padding; or None.
        feature_map: whether φ(x) = elu(x) + 1 is taken of q and k on the way.
        half: whether bfloat16 numbers are multiplied, and not float32 ones.
        precision: how float32 numbers are multiplied.
        tile: sizes, for both orders of D and M.
        segments, segment_chunks: of one head, and the chunks of each.
        eps: added to the normaliser.
    """

    momentum: bool
    table: Tensor
    gamma: Tensor
    padding: Tensor | None
    feature_map: bool
    half: bool
    precision: str
    tile: Tile
    segments: int
    segment_chunks: int
    eps: float


def tile_of(device: torch.device, half: bool, width: int) -> Tile:
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    sizes = TILES.get(major, AMPERE)[half]
    return next(tile for largest, tile in sizes.items() if width <= largest)


def number_of_segments(device: torch.device, programs: int, chunks: int) -> int:
    """1 where the heads fill the device; else enough for two programs on each multiprocessor, of four chunks or more.

    In segments, keys and values are read twice.
    """
    if device.type != "cuda":
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return 1 if programs >= processors else max(1, min(chunks // 4, 2 * processors // programs))


def setting_of(
    q: Tensor, k: Tensor, v: Tensor, numbers: tuple[float, float], beta: Tensor | None, gamma: Tensor | None, linear: bool,
    padding: Tensor | None, eps: float, feature_map: bool,
) -> Setting:  # fmt: skip
    products = precision(q, k, v)
    width, columns = max(q.shape[3], v.shape[3]), min(q.shape[3], v.shape[3])
    tile = tile_of(q.device, products["HALF"], width)
    chunks = -(-q.shape[2] // tile.chunk)
    programs = q.shape[0] * q.shape[1] * -(-columns // tile.columns)
    segment_chunks = -(-chunks // number_of_segments(q.device, programs, chunks))
    if gamma is None:
        gamma = fixed_number(numbers[1], q.device)
    table = gamma  # for want of weights
    if not linear:
        table = fixed_table(numbers[0], tile.chunk, q.device) if beta is None else weight_table(beta, tile.chunk)
    return Setting(
        momentum=not linear,
        table=table,
        gamma=gamma.float().contiguous(),
        padding=None if padding is None else padding.view(torch.uint8),
        feature_map=feature_map,
        half=products["HALF"],
        precision=products["PRECISION"],
        tile=tile,
        segments=-(-chunks // segment_chunks),
        segment_chunks=segment_chunks,
        eps=eps,
    )


def weight_table(beta: Tensor, chunk: int) -> Tensor:
    """β `[H]` → `[H,6,C+1]` float32: for n = 0 … C the rows that `causal_kernels` names. Sums of positive terms, in float64."""
    beta = beta.double().reshape(-1, 1)
    count = torch.arange(chunk + 1, dtype=torch.float64, device=beta.device)
    decay = beta**count
    growth = decay.cumsum(-1)
    before = torch.nn.functional.pad(growth[:, :-1], (1, 0))  # w_{n−1}
    decay_slope = torch.nn.functional.pad(decay[:, :-1], (1, 0)) * count
    rows = (growth, beta * before, decay, (beta - 1) * before, decay_slope.cumsum(-1), decay_slope)
    return torch.stack(rows, dim=1).float().contiguous()


@lru_cache(maxsize=64)
def fixed_table(momentum: float, chunk: int, device: torch.device) -> Tensor:
    """Kept: a dozen small operations otherwise take longer than a short sequence's attention."""
    with torch.inference_mode(False):
        return weight_table(torch.full((1,), momentum, dtype=torch.float64, device=device), chunk)


@lru_cache(maxsize=64)
def fixed_number(value: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.full((1,), value, device=device)


def forward(
    q: Tensor, k: Tensor, v: Tensor, setting: Setting, initial: States | None, last: States | None
) -> tuple[Tensor, Tensor]:
    """`[B,H,N,M]` in v's layout and dtype, and the normaliser `[B,H,N]`; writes the last state where there is one to write."""
    out, normaliser = torch.empty_like(v), q.new_empty(q.shape[:3], dtype=torch.float32)
    entering = entering_states(k, v, None, setting, initial, reverse=False)
    launch_attend("out", q, k, v, out, q, setting, entering, last, normaliser=normaliser)
    return out, normaliser


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normaliser: Tensor, grad: Tensor, setting: Setting, initial: States | None,
    grad_last: States | None, grad_initial: States | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients for q, k and v, and ρ and δ `[B,H,N]`; writes those for the initial state where there is one."""
    rho, delta = torch.empty_like(normaliser), torch.empty_like(normaliser)
    batch, heads, length, width = v.shape
    row_blocks = -(-length // GRADIENT_ROWS)
    prepare_gradients[(batch * heads * row_blocks,)](
        out, grad, normaliser, setting.gamma, rho, delta, out.stride(), grad.stride(), per_head(setting.gamma), heads, length,
        width, row_blocks, ROWS=GRADIENT_ROWS, BLOCK=power_of_two(width),
    )  # fmt: skip
    factors = {"rho": rho, "delta": delta}
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    entering = entering_states(k, v, None, setting, initial, reverse=False)
    launch_attend("dq", grad, v, k, dq, q, setting, entering, None, **factors)
    entering = entering_states(q, grad, factors, setting, grad_last, reverse=True)
    launch_attend("dk", v, grad, q, dk, k, setting, entering, grad_initial, **factors)
    launch_attend("dv", k, q, grad, dv, v, setting, entering, grad_initial, **factors)
    return dq, dk, dv, rho, delta


def momentum_gradient(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, rho: Tensor, setting: Setting, initial: States | None,
    grad_last: States | None,
) -> Tensor:  # fmt: skip
    """The derivative for β, `[H]` float32."""
    batch, heads, length, width = q.shape
    columns = min(32, power_of_two(v.shape[3]))
    blocks = -(-v.shape[3] // columns)
    slope = q.new_empty(batch, heads, blocks, dtype=torch.float32)
    none = slope
    differentiate_momentum[(batch * heads * blocks,)](
        q, k, v, grad, rho, none if setting.padding is None else setting.padding, setting.table,
        none if initial is None else initial.second, none if grad_last is None else grad_last.first,
        none if grad_last is None else grad_last.second, slope, q.stride(), k.stride(), v.stride(), grad.stride(),
        padding_stride(setting), per_head(setting.table), heads, length, width, v.shape[3], blocks,
        PADDED=setting.padding is not None, ENTERS=initial is not None, LEAVES=grad_last is not None, MAP=setting.feature_map,
        OPERAND=operand_of(setting), PRECISION=setting.precision, CHUNK=setting.tile.chunk, D_BLOCK=power_of_two(width),
        M_BLOCK=columns, num_warps=setting.tile.warps, num_stages=1,
    )  # fmt: skip
    return slope.sum((0, 2))


def per_head(x: Tensor) -> int:
    """The stride of heads in `[H,..]` or `[1,..]`, which serves all."""
    return x.stride(0) if x.shape[0] > 1 else 0


def operand_of(setting: Setting) -> tl.dtype:
    return tl.bfloat16 if setting.half else tl.float32


def padding_stride(setting: Setting) -> tuple[int, ...]:
    return (0, 0) if setting.padding is None else setting.padding.stride()


def launch_attend(
    role: str, x: Tensor, y: Tensor, u: Tensor, out: Tensor, raw: Tensor, setting: Setting, entering: States | None,
    last: States | None, *, normaliser: Tensor | None = None, rho: Tensor | None = None, delta: Tensor | None = None,
) -> None:  # fmt: skip
    """One of the four products of the table in `causal_kernels`: out, dq, dk or dv."""
    batch, heads, length, x_width = x.shape
    u_width, key_last = u.shape[3], role in ("dq", "dk")  # columns of u are k's, the state's rows
    none = out  # for what isn't read
    columns = min(setting.tile.columns, power_of_two(u_width))
    blocks = -(-u_width // columns)
    maps = setting.feature_map
    attend[(batch * heads * blocks * setting.segments,)](
        x, y, u, out, raw, none if normaliser is None else normaliser, none if rho is None else rho,
        none if delta is None else delta, none if setting.padding is None else setting.padding, setting.table, setting.gamma,
        *((none,) * 3 if entering is None else entering), *((none,) * 3 if last is None else last),
        x.stride(), y.stride(), u.stride(), out.stride(), raw.stride(), padding_stride(setting),
        (1, x_width) if key_last else (u_width, 1), per_head(setting.table), per_head(setting.gamma), heads, length, x_width,
        u_width, blocks, setting.segments, setting.segment_chunks, setting.eps,
        MOMENTUM=setting.momentum, REVERSE=role in ("dk", "dv"), NORMALISE=role == "out", BIAS=key_last,
        PADDED=setting.padding is not None, ENTERS=entering is not None,
        STORE_STATE=last is not None and role in ("out", "dv"), STORE_SUMS=last is not None and role in ("out", "dk"),
        MAP_XY=maps and not key_last, MAP_U=maps and key_last, MAP_OUT=maps and key_last,
        OPERAND=operand_of(setting), PRECISION=setting.precision, CHUNK=setting.tile.chunk, X_BLOCK=power_of_two(x_width),
        U_BLOCK=columns, num_warps=setting.tile.warps, num_stages=setting.tile.stages,
    )  # fmt: skip


def entering_states(
    y: Tensor, u: Tensor, factors: dict[str, Tensor] | None, setting: Setting, initial: States | None, *, reverse: bool
) -> States | None:
    """The states that enter each segment, of k and v; or their gradients, of q and g. Of one segment the initial one."""
    if setting.segments == 1:
        return initial
    batch, heads, length, y_width = y.shape
    rows, u_width, segments = batch * heads, u.shape[3], setting.segments
    first = y.new_empty(rows, segments, y_width, u_width, dtype=torch.float32)
    states = States(first, torch.empty_like(first) if setting.momentum else first, first.new_empty(rows, segments, y_width))
    carry = first.new_empty(rows, segments, 2)
    y_columns, u_columns = (min(64, power_of_two(x.shape[3])) for x in (y, u))
    y_blocks, u_blocks = -(-y_width // y_columns), -(-u_width // u_columns)
    rho, delta = (first, first) if factors is None else (factors["rho"], factors["delta"])
    summarise[(rows * y_blocks * u_blocks * segments,)](
        y, u, rho, delta, first if setting.padding is None else setting.padding, setting.table, *states, carry,
        y.stride(), u.stride(), padding_stride(setting), per_head(setting.table), heads, length, y_width, u_width, y_blocks,
        u_blocks, segments, setting.segment_chunks, MOMENTUM=setting.momentum, REVERSE=reverse,
        PADDED=setting.padding is not None, MAP_Y=setting.feature_map, OPERAND=operand_of(setting), PRECISION=setting.precision,
        CHUNK=setting.tile.chunk, Y_BLOCK=y_columns, U_BLOCK=u_columns, num_warps=4, num_stages=setting.tile.stages,
    )  # fmt: skip
    initial_first, initial_second, initial_sums = (first,) * 3 if initial is None else initial
    flags = {"REVERSE": reverse, "ENTERS": initial is not None, "BLOCK": SCAN_BLOCK}
    for own, own_second, start, start_second, size, momentum in (
        (states.first, states.second, initial_first, initial_second, y_width * u_width, setting.momentum),
        (states.sums, states.sums, initial_sums, initial_sums, y_width, False),
    ):
        blocks = -(-size // SCAN_BLOCK)
        scan[(rows * blocks,)](
            own, own_second, carry, start, start_second, size, blocks, segments, MOMENTUM=momentum, num_warps=4, **flags
        )
    return states
