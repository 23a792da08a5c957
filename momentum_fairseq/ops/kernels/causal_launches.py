"""In which order the causal kernels are launched, and on what."""

import torch
from torch import Tensor

from momentum_fairseq.ops.kernels.causal_gradients import differentiate_momentum, prepare_gradients
from momentum_fairseq.ops.kernels.causal_segments import scan, summarise
from momentum_fairseq.ops.kernels.causal_setting import Setting
from momentum_fairseq.ops.kernels.causal_tiles import NO_STATES, States, View
from momentum_fairseq.ops.kernels.causal_walk import attend
from momentum_fairseq.ops.kernels.tiles import power_of_two

SCAN_BLOCK, GRADIENT_ROWS = 1024, 32
Factors = tuple[Tensor, Tensor]  # ρ and δ


def forward(
    q: Tensor, k: Tensor, v: Tensor, setting: Setting, initial: States | None, last: States | None
) -> tuple[Tensor, Tensor]:
    """`[B,H,N,M]` in v's layout and dtype, and the normaliser `[B,H,N]`; writes the last state where there is one to write."""
    out, normaliser = torch.empty_like(v), q.new_empty(q.shape[:3], dtype=torch.float32)
    entering = entering_states(k, v, None, setting, initial)
    launch_attend(q, k, v, out, None, setting, entering, last, normaliser=normaliser)
    return out, normaliser


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normaliser: Tensor, grad: Tensor, setting: Setting, initial: States | None,
    grad_last: States | None, grad_initial: States | None, momentum_learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients for q, k and v, δ `[B,H,N]`, and the derivative for β `[H]` where it is learned, float32.

    Writes the gradients for the initial state where there is one.
    """
    factors = torch.empty_like(normaliser), torch.empty_like(normaliser)
    batch, heads, length, width = v.shape
    row_blocks = -(-length // GRADIENT_ROWS)
    prepare_gradients[(batch * heads * row_blocks,)](
        view(out), view(grad), normaliser, setting.gamma, *factors, heads, length, width, row_blocks,
        ROWS=GRADIENT_ROWS, BLOCK=power_of_two(width),
    )  # fmt: skip
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    entering = entering_states(k, v, None, setting, initial)
    leaving = entering_states(q, grad, factors, setting, grad_last)
    of_matrices = of_sums = None
    if grad_initial is not None:
        of_matrices, of_sums = grad_initial._replace(sums=None), NO_STATES._replace(sums=grad_initial.sums)
    launch_attend(grad, v, k, dq, q, setting, entering, None, factors=factors, key_last=True)
    launch_attend(v, grad, q, dk, k, setting, leaving, of_sums, factors=factors, key_last=True, reverse=True)
    launch_attend(k, q, grad, dv, None, setting, leaving, of_matrices, factors=factors, reverse=True)
    slope = momentum_gradient(q, k, v, grad, factors[0], setting, entering, leaving) if momentum_learned else None
    return dq, dk, dv, factors[1], slope


def momentum_gradient(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, rho: Tensor, setting: Setting, entering: States | None,
    leaving: States | None,
) -> Tensor:  # fmt: skip
    """The derivative for β, `[H]` float32, from the states before each segment and the gradients for those after it."""
    _, heads, length, width = q.shape
    columns = min(32, setting.tile.columns, power_of_two(v.shape[3]))
    blocks = -(-v.shape[3] // columns)
    slope = q.new_empty(setting.sequences, heads, setting.segments * blocks, dtype=torch.float32)
    differentiate_momentum[(slope.numel(),)](
        view(q), view(k), view(v), view(grad), rho, setting.padding, setting.bounds, setting.table,
        entering or NO_STATES, leaving or NO_STATES, slope,
        heads, length, width, v.shape[3], blocks, setting.segments, setting.segment_chunks,
        MAP=setting.feature_map, OPERAND=setting.operand, PRECISION=setting.precision, CHUNK=setting.tile.chunk,
        D_BLOCK=power_of_two(width), M_BLOCK=columns, num_warps=setting.tile.warps, num_stages=1,
    )  # fmt: skip
    return slope.sum((0, 2))


def launch_attend(
    x: Tensor, y: Tensor, u: Tensor, out: Tensor, raw: Tensor | None, setting: Setting, entering: States | None,
    last: States | None, *, normaliser: Tensor | None = None, factors: Factors | None = None, key_last: bool = False,
    reverse: bool = False,
) -> None:  # fmt: skip
    """One of the four products of the table in `causal_walk`; `key_last` where u's columns are the state's rows."""
    _, heads, length, x_width = x.shape
    u_width = u.shape[3]
    columns = min(setting.tile.columns, power_of_two(u_width))
    blocks = -(-u_width // columns)
    rho, delta = (None, None) if factors is None else factors
    attend[(setting.sequences * heads * blocks * setting.segments,)](
        view(x), view(y), view(u), view(out), None if raw is None else view(raw), normaliser, rho, delta if key_last else None,
        setting.padding, setting.bounds, setting.table, setting.gamma, setting.steady, entering or NO_STATES, last or NO_STATES,
        (1, x_width) if key_last else (u_width, 1),
        heads, length, x_width, u_width, blocks, setting.segments, setting.segment_chunks, setting.eps,
        REVERSE=reverse, MAP=setting.feature_map, OPERAND=setting.operand, PRECISION=setting.precision, CHUNK=setting.tile.chunk,
        X_BLOCK=power_of_two(x_width), U_BLOCK=columns, RECENT=setting.recent,
        num_warps=setting.tile.warps, num_stages=setting.tile.stages, maxnreg=setting.tile.registers,
    )  # fmt: skip


def entering_states(y: Tensor, u: Tensor, factors: Factors | None, setting: Setting, initial: States | None) -> States | None:
    """The states that enter each segment, of k and v; or, with factors, their gradients, of q and g.

    Of one segment it is the initial one.
    """
    if setting.segments == 1:
        return initial
    _, heads, length, y_width = y.shape
    rows, u_width, segments = setting.sequences * heads, u.shape[3], setting.segments
    first = y.new_empty(rows, segments, y_width, u_width, dtype=torch.float32)
    second = None if setting.state_table is None else torch.empty_like(first)
    states = States(first, second, first.new_empty(rows, segments, y_width))
    carry = first.new_empty(rows, segments, 2)
    y_columns, u_columns = (min(64, power_of_two(x.shape[3])) for x in (y, u))
    y_blocks, u_blocks = -(-y_width // y_columns), -(-u_width // u_columns)
    reverse = factors is not None
    summarise[(rows * y_blocks * u_blocks * segments,)](
        view(y), view(u), *(factors or (None, None)), setting.padding, setting.bounds, setting.state_table, states, carry,
        heads, length, y_width, u_width, y_blocks, u_blocks, segments, setting.segment_chunks,
        REVERSE=reverse, MAP=setting.feature_map, OPERAND=setting.operand, PRECISION=setting.precision,
        CHUNK=setting.tile.chunk, Y_BLOCK=y_columns, U_BLOCK=u_columns, num_warps=4, num_stages=setting.tile.stages,
    )  # fmt: skip
    start = initial or NO_STATES
    for own, own_second, given, given_second, size in (
        (states.first, states.second, start.first, start.second, y_width * u_width),
        (states.sums, None, start.sums, None, y_width),
    ):
        blocks = -(-size // SCAN_BLOCK)
        scan[(rows * blocks,)](
            own, own_second, carry, given, given_second, size, blocks, segments, REVERSE=reverse, BLOCK=SCAN_BLOCK, num_warps=4
        )
    return states


def view(x: Tensor) -> View:
    return View(x, x.stride())
