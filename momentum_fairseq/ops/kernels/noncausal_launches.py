"""How many programs of which size compute non-causal attention on given tensors.

Blocks of positions are counted on the grid's first axis, with the heads: the others end at 65535.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from momentum_fairseq.ops.contraction_order import quadratic_order_is_cheaper
from momentum_fairseq.ops.kernels.linear_order import count_keys, key_gradients, query_gradients, read_states, sum_states
from momentum_fairseq.ops.kernels.quadratic_order import gradients_by_scores, read_by_scores
from momentum_fairseq.ops.kernels.tiles import power_of_two, precision, rows_contiguous

# Above, scores would take too much of the work of too few programs.
LONGEST_QUADRATIC = 256
# Without a GPU, as many programs as make the splitting of short sequences a thing to test.
INTERPRETED_PROGRAMS = 8
STATE_TILE = 128 * 128  # numbers: 64 registers a thread


def quadratic(queries: int, keys: int, key_dim: int, value_dim: int) -> bool:
    """Whether to compute (q kᵀ) v: sequences are short, and it costs no more multiplications than q (kᵀ v)."""
    short = queries <= LONGEST_QUADRATIC and keys <= LONGEST_QUADRATIC
    return short and quadratic_order_is_cheaper(queries, keys, key_dim, value_dim)


@dataclass(frozen=True)
class Problem:
    """What the kernels take, with rows contiguous; `sequences` n, each of `most_queries` and `most_keys` at most."""

    q: Tensor
    k: Tensor
    v: Tensor
    weights: Tensor | None
    padding: Tensor | None
    query_bounds: Tensor | None
    key_bounds: Tensor | None
    most_queries: int
    most_keys: int
    log_beta: float
    scale: float
    mapped: bool

    @staticmethod
    def of(
        q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, padding: Tensor | None,
        bounds: tuple[Tensor | None, Tensor | None], most: tuple[int, int], momentum: float, step_size: float, mapped: bool,
    ) -> "Problem":  # fmt: skip
        """w_d = scale (1 − β^{d+1}); a β of zero to any power is nothing in float32, like exp(−200)."""
        q, k, v = (rows_contiguous(x) for x in (q, k, v))
        weights = None if weights is None else rows_contiguous(weights)
        padding = None if padding is None else rows_contiguous(padding.view(torch.uint8))
        log_beta = max(math.log(momentum), -200.0) if momentum > 0 else -200.0
        return Problem(q, k, v, weights, padding, *bounds, *most, log_beta, step_size / (1 - momentum), mapped)

    @property
    def quadratic(self) -> bool:
        return quadratic(self.most_queries, self.most_keys, self.q.shape[3], self.v.shape[3])

    @property
    def programs(self) -> int:
        """Sequences times heads."""
        sequences = self.q.shape[0] if self.query_bounds is None else self.query_bounds.shape[0] - 1
        return sequences * self.q.shape[1]

    def device(self) -> AbstractContextManager:
        """Kernels start on the current device."""
        return torch.cuda.device(self.q.device) if self.q.is_cuda else nullcontext()

    def options(self, **tiles: int) -> dict[str, Any]:
        """Constants of a kernel with tiles of those sides."""
        large = max(tiles["BLOCK_D"], tiles["BLOCK_M"]) > 64
        return {**tiles, **precision(self.q, self.k, self.v), "MAPPED": self.mapped, "num_warps": 8 if large else 4}


def launch_quadratic(problem: Problem, out: Tensor, inverse: Tensor, eps: float) -> None:
    """`read_by_scores` of the problem."""
    options = quadratic_options(problem)
    p, (q, k, v) = problem, (problem.q, problem.k, problem.v)
    read_by_scores[(p.programs, triton.cdiv(p.most_queries, options["ROWS"]))](
        q, k, v, p.weights, p.padding, p.query_bounds, p.key_bounds, out, inverse,
        q.stride(), k.stride(), v.stride(), out.stride(), strides(p.weights), stride_of_rows(p.padding),
        p.log_beta, p.scale, eps, q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3], **options,
    )  # fmt: skip


def launch_quadratic_gradients(
    problem: Problem, g: Tensor, out: Tensor, inverse: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, dw: Tensor | None
) -> None:
    """`gradients_by_scores` of the problem."""
    options = quadratic_options(problem)
    p, (q, k, v) = problem, (problem.q, problem.k, problem.v)
    row_blocks, key_blocks = (triton.cdiv(n, options[side]) for n, side in ((p.most_queries, "ROWS"), (p.most_keys, "KEYS")))
    gradients_by_scores[(p.programs, row_blocks + key_blocks)](
        g, q, k, v, out, inverse, p.weights, p.padding, p.query_bounds, p.key_bounds, dq, dk, dv, dw,
        g.stride(), q.stride(), k.stride(), v.stride(), out.stride(), dq.stride(), dk.stride(), dv.stride(),
        strides(p.weights), stride_of_rows(p.padding), p.log_beta, p.scale,
        q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3], row_blocks, **options,
    )  # fmt: skip


def quadratic_options(problem: Problem) -> dict[str, Any]:
    """All features and values in one tile."""
    dim, value_dim = power_of_two(problem.q.shape[3]), power_of_two(problem.v.shape[3])
    widest = max(dim, value_dim)
    most = 64 if widest <= 64 else 32 if widest <= 128 else 16  # of the gradients, six tiles are in registers
    rows, keys = (min(most, power_of_two(n)) for n in (problem.most_queries, problem.most_keys))
    return problem.options(ROWS=rows, KEYS=keys, BLOCK_D=dim, BLOCK_M=value_dim)


def launch_linear(problem: Problem, out: Tensor, inverse: Tensor, states: Tensor, sums: Tensor, eps: float) -> None:
    """Sum the states up, then read them."""
    p, (q, k, v) = problem, (problem.q, problem.k, problem.v)
    numbers = (p.log_beta, p.scale)
    sum_up(p, k, v, p.weights, None, counts_of(p.padding), p.key_bounds, p.most_keys, numbers, states, sums)
    tiles = linear_tiles(p, p.most_queries, "ROWS")
    blocks = triton.cdiv(p.most_queries, tiles["ROWS"])
    read_states[(p.programs * blocks, triton.cdiv(v.shape[3], tiles["BLOCK_M"]))](
        q, states, sums, p.query_bounds, out, inverse, q.stride(), out.stride(), eps,
        q.shape[1], q.shape[2], q.shape[3], v.shape[3], blocks, **p.options(**tiles),
    )  # fmt: skip


def launch_linear_gradients(
    problem: Problem, g: Tensor, out: Tensor, inverse: Tensor, states: Tensor, sums: Tensor,
    dq: Tensor, dk: Tensor, dv: Tensor, dw: Tensor | None,
) -> None:  # fmt: skip
    """Of the queries; of the states, which are sums over the queries as the states are over the keys; of keys and values."""
    p, (q, k, v) = problem, (problem.q, problem.k, problem.v)
    heads, dim, value_dim = q.shape[1], q.shape[3], v.shape[3]
    shares, dstates, dsums = torch.empty_like(inverse), torch.empty_like(states), torch.empty_like(sums)
    tiles = linear_tiles(p, p.most_queries, "ROWS", STATE_TILE // 2)
    blocks = triton.cdiv(p.most_queries, tiles["ROWS"])
    query_gradients[(p.programs * blocks,)](
        g, q, out, inverse, states, sums, p.query_bounds, dq, shares,
        g.stride(), q.stride(), out.stride(), dq.stride(), heads, q.shape[2], dim, value_dim, blocks, **p.options(**tiles),
    )  # fmt: skip
    sum_up(p, q, g, inverse, shares, None, p.query_bounds, p.most_queries, (0.0, 1.0), dstates, dsums)
    counts, tiles = counts_of(p.padding), linear_tiles(p, p.most_keys, "KEYS", STATE_TILE // 2)
    blocks = triton.cdiv(p.most_keys, tiles["KEYS"])
    key_gradients[(p.programs * blocks,)](
        k, v, p.weights, counts, dstates, dsums, p.key_bounds, dk, dv, dw,
        k.stride(), v.stride(), dk.stride(), dv.stride(), strides(p.weights), stride_of_rows(counts),
        p.log_beta, p.scale, heads, k.shape[2], dim, value_dim, blocks, **p.options(**tiles),
    )  # fmt: skip


def sum_up(
    problem: Problem, k: Tensor, v: Tensor, weights: Tensor | None, key_weights: Tensor | None, counts: Tensor | None,
    bounds: Tensor | None, most: int, numbers: tuple[float, float], states: Tensor, sums: Tensor,
) -> None:  # fmt: skip
    """`sum_states` in as many splits as fill the device, and their sum."""
    heads, length, dim, value_dim = *k.shape[1:], v.shape[3]
    tiles = linear_tiles(problem, most, "KEYS")
    columns = triton.cdiv(value_dim, tiles["BLOCK_M"])
    blocks = triton.cdiv(most, tiles["KEYS"])
    splits = min(blocks, max(1, programs_to_fill(k.device) // (problem.programs * columns)))
    split = triton.cdiv(blocks, splits) * tiles["KEYS"]
    splits = triton.cdiv(most, split)
    parts = (states, sums) if splits == 1 else (x.new_empty(*x.shape[:2], splits, *x.shape[2:]) for x in (states, sums))
    part_states, part_sums = parts
    sum_states[(problem.programs, splits, columns)](
        k, v, weights, key_weights, counts, bounds, part_states, part_sums,
        k.stride(), v.stride(), strides(weights), stride_of_rows(counts), *numbers,
        heads, length, dim, value_dim, split, **problem.options(**tiles),
    )  # fmt: skip
    if splits > 1:
        torch.sum(part_states, 2, out=states)
        torch.sum(part_sums, 2, out=sums)


def linear_tiles(problem: Problem, most: int, side: str, state: int | None = None) -> dict[str, int]:
    """All features in a tile, and as many values as leave the state of both, `state` numbers, in registers."""
    dim = power_of_two(problem.q.shape[3])
    value_dim = min(power_of_two(problem.v.shape[3]), (state or STATE_TILE) // dim)
    return {side: min(32 if dim > 128 else 64, power_of_two(most)), "BLOCK_D": dim, "BLOCK_M": value_dim}


def counts_of(padding: Tensor | None) -> Tensor | None:
    """`count_keys` of padding uint8 `[B,S]`."""
    if padding is None:
        return None
    counts = torch.empty(padding.shape, dtype=torch.int32, device=padding.device)
    block = min(1024, power_of_two(padding.shape[1]))
    count_keys[(padding.shape[0],)](padding, counts, padding.shape[1], padding.stride(0), BLOCK=block)
    return counts


def programs_to_fill(device: torch.device) -> int:
    """Two a multiprocessor."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


def strides(x: Tensor | None) -> tuple[int, ...]:
    return () if x is None else x.stride()


def stride_of_rows(x: Tensor | None) -> int:
    return 0 if x is None else x.stride(0)
