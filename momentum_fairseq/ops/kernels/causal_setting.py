"""What the causal kernels of one call share: sizes of tiles, number of segments, the table of weights."""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from momentum_fairseq.ops.kept import kept
from momentum_fairseq.ops.kernels.causal_tiles import View
from momentum_fairseq.ops.kernels.tiles import power_of_two, precision
from momentum_fairseq.ops.momentum_weights import first_steady_count


class Tile(NamedTuple):
    """Positions of a chunk, columns of the state that one program holds, warps of a program, loads ahead, a thread's registers.

    Fewer registers than the compiler would take, 255 at most, let more programs be on a multiprocessor at a time.
    """

    chunk: int
    columns: int
    warps: int
    stages: int
    registers: int | None = None


# By the architecture's major version, then whether operands take 2 bytes, then the largest contracted width. Pinned rather than
# searched for, so that the first call doesn't take seconds: of the tiles that fit into registers (compile_kernels.py) those
# with the most columns. Not yet timed on any GPU; tune_kernels.py does that.
#
# What that should cost on an H100, for (B, N, H, D) = (1, 8192, 96, 128) in bfloat16, by arithmetic: q, k, v and o once through
# memory, 0.81 GB, take 0.27 ms at 3 TB/s. With one state a chunk of 64 takes 6.8 million operations (two states 10.5), all
# 84 · 10⁹, 0.08 ms at 989 TFLOP/s. The 2 programs of 64 columns that share a head compute its scores twice, each in both of its
# warpgroups: 132 · 10⁹, 0.13 ms (two states, 4 programs of 32 columns: 219 · 10⁹, 0.22 ms); and they read q and k twice, mostly
# from L2, 1.2 GB in all. Forward and backward pass 18 tensors of that size through memory where
# 12 are the least: 3.6 GB, 1.2 ms. For (4, 4096, 64, 128) all of it is 4/3 as much.
HOPPER = {
    True: {64: Tile(64, 32, 4, 3), 128: Tile(64, 32, 8, 3), 256: Tile(64, 16, 8, 2)},
    False: {64: Tile(32, 32, 4, 2), 128: Tile(32, 32, 8, 2), 256: Tile(32, 16, 8, 2)},
}
AMPERE = {
    True: {64: Tile(32, 32, 4, 3), 128: Tile(32, 16, 4, 3), 256: Tile(32, 16, 8, 3)},
    False: {64: Tile(32, 32, 4, 2), 128: Tile(32, 32, 4, 1), 256: Tile(16, 16, 8, 1)},
}
TILES = {8: AMPERE, 9: HOPPER, 10: HOPPER}
# Where there is one state, not two, of the same chunks: twice the columns fit, so that half as many programs repeat the scores.
HOPPER_ONE_STATE = {64: Tile(64, 64, 8, 3), 128: Tile(64, 64, 8, 3)}
ONE_STATE_TILES = {9: {True: HOPPER_ONE_STATE}, 10: {True: HOPPER_ONE_STATE}}


class Setting(NamedTuple):
    """What all kernels of one call share.

    Attributes:
        table: of weights, `[H or 1,6,C+1]`; None = there is no momentum, and one state.
        steady: 1 / (1 − β) where one state does with momentum, too (see `causal_walk`); else None.
        recent: rows next to a chunk whose weight isn't yet the steady one, a power of two or 0.
        gamma: γ, `[H]` or `[1]`, float32.
        padding: `[B,N]` uint8, 1 = padding; or None.
        bounds: `[n+1]`: B is 1, and n sequences lie one after the other; None = there is one a row.
        sequences: n, or B.
        feature_map: whether φ(x) = elu(x) + 1 is taken of q and k on the way.
        operand: the dtype of the numbers that are multiplied.
        precision: how they are multiplied where that is float32.
        tile: sizes, for both orders of D and M.
        segments, segment_chunks: of one head, and the chunks of each.
        eps: added to the normaliser.
    """

    table: View | None
    steady: float | None
    recent: int
    gamma: View
    padding: View | None
    bounds: Tensor | None
    sequences: int
    feature_map: bool
    operand: tl.dtype
    precision: str
    tile: Tile
    segments: int
    segment_chunks: int
    eps: float

    @property
    def state_table(self) -> View | None:
        """The table where it weighs the state; None = there is one state, the sum of what the keys add."""
        return self.table if self.steady is None else None


def setting_of(
    q: Tensor, k: Tensor, v: Tensor, numbers: tuple[float, float], beta: Tensor | None, gamma: Tensor | None, linear: bool,
    padding: Tensor | None, bounds: Tensor | None, longest: int, eps: float, feature_map: bool, states: bool,
) -> Setting:  # fmt: skip
    """β and γ are `beta` and `gamma` where given, else `numbers`; no sequence has more than `longest` positions.

    `states`: one is given or wanted, or the gradient of one.
    """
    products = precision(q, k, v)
    width, columns = max(q.shape[3], v.shape[3]), min(q.shape[3], v.shape[3])
    steady, recent = None, 0
    tile = tile_of(q.device, products["HALF"], width, 2)
    if not linear and beta is None and padding is None and not states:
        operand = torch.bfloat16 if products["HALF"] else torch.float32
        steady, recent = one_state(numbers[0], operand, tile.chunk)
    if linear or steady is not None:
        tile = tile_of(q.device, products["HALF"], width, 1)
    chunks = max(1, -(-longest // tile.chunk))
    sequences = q.shape[0] if bounds is None else bounds.shape[0] - 1
    programs = sequences * q.shape[1] * -(-columns // tile.columns)
    segment_chunks = -(-chunks // number_of_segments(q.device, programs, chunks))
    table = None
    if not linear:
        table = fixed_table(numbers[0], tile.chunk, q.device) if beta is None else weight_table(beta, tile.chunk)
    return Setting(
        table=None if table is None else per_head(table),
        steady=steady,
        recent=recent,
        gamma=per_head(fixed_number(numbers[1], q.device) if gamma is None else gamma.float().contiguous()),
        padding=None if padding is None else View(padding.view(torch.uint8), padding.stride()),
        bounds=None if bounds is None else bounds.contiguous(),
        sequences=sequences,
        feature_map=feature_map,
        operand=tl.bfloat16 if products["HALF"] else tl.float32,
        precision=products["PRECISION"],
        tile=tile,
        segments=-(-chunks // segment_chunks),
        segment_chunks=segment_chunks,
        eps=eps,
    )


def one_state(momentum: float, operand: torch.dtype, chunk: int) -> tuple[float | None, int]:
    """`Setting.steady` and `Setting.recent`; not where the rows are so many that one state is as much work as two."""
    recent = first_steady_count(momentum, operand) - 2  # across a border the count is at least 2
    recent = 0 if recent < 1 else power_of_two(recent)
    return (1 / (1 - momentum), recent) if 2 * recent <= chunk else (None, 0)


def tile_of(device: torch.device, half: bool, width: int, states: int) -> Tile:
    """The chunk is the same for one state as for two."""
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    sizes = TILES.get(major, AMPERE)[half]
    if states == 1:
        sizes = sizes | ONE_STATE_TILES.get(major, {}).get(half, {})
    return next(tile for largest, tile in sizes.items() if width <= largest)


def number_of_segments(device: torch.device, programs: int, chunks: int) -> int:
    """1 where the heads fill the device; else enough for two programs on each multiprocessor, of four chunks or more.

    In segments, keys and values are read twice.
    """
    if device.type != "cuda":
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return 1 if programs >= processors else max(1, min(chunks // 4, 2 * processors // programs))


def per_head(x: Tensor) -> View:
    """`[H,..]`, or `[1,..]`, which serves all heads."""
    return View(x, (x.stride(0) if x.shape[0] > 1 else 0,))


def weight_table(beta: Tensor, chunk: int) -> Tensor:
    """β `[H]` → `[H,6,C+1]` float32: for n = 0 … C the rows that `causal_tiles` names. Sums of positive terms, in float64."""
    beta = beta.double().reshape(-1, 1)
    count = torch.arange(chunk + 1, dtype=torch.float64, device=beta.device)
    decay = beta**count
    growth = decay.cumsum(-1)
    before = torch.nn.functional.pad(growth[:, :-1], (1, 0))  # w_{n−1}
    decay_slope = torch.nn.functional.pad(decay[:, :-1], (1, 0)) * count
    rows = (growth, beta * before, decay, (beta - 1) * before, decay_slope.cumsum(-1), decay_slope)
    return torch.stack(rows, dim=1).float().contiguous()


@kept
def fixed_table(momentum: float, chunk: int, device: torch.device) -> Tensor:
    """The table `[1,6,C+1]` of one β for all heads."""
    return weight_table(torch.full((1,), momentum, dtype=torch.float64, device=device), chunk)


@kept
def fixed_number(value: float, device: torch.device) -> Tensor:
    """float32 `[1]`."""
    return torch.full((1,), value, dtype=torch.float32, device=device)
