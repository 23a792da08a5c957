"""Non-causal linear and momentum attention in Triton, as one differentiable op, in the cheaper order of products."""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from momentum_fairseq.ops.kernels.linear_order import count_keys, key_gradients, query_gradients, read_states, sum_states
from momentum_fairseq.ops.kernels.quadratic_order import gradients_by_scores, read_by_scores
from momentum_fairseq.ops.kernels.tiles import power_of_two, precision, rows_contiguous

# Up to here every program may read all keys; above, too few programs would read too much.
LONGEST_QUADRATIC = 256


def quadratic(queries: int, keys: int, key_dim: int, value_dim: int) -> bool:
    """Whether to compute (q kᵀ) v: where it costs no more than q (kᵀ v), and sequences are short."""
    cheaper = queries * keys * (key_dim + value_dim) <= (queries + keys) * key_dim * value_dim
    return max(queries, keys) <= LONGEST_QUADRATIC and cheaper


class Sizes(NamedTuple):
    """Sequences, heads, positions in memory and at most in a sequence, widths."""

    batch: int
    heads: int
    queries: int
    keys: int
    most_queries: int
    most_keys: int
    key_dim: int
    value_dim: int

    @property
    def quadratic(self) -> bool:
        return quadratic(self.most_queries, self.most_keys, self.key_dim, self.value_dim)


def sizes_of(q: Tensor, k: Tensor, v: Tensor, query_bounds: Tensor | None, most_queries: int, most_keys: int) -> Sizes:
    """Of a padded batch, or with bounds of sequences that lie one after the other in its only row."""
    batch, heads, queries, dim = q.shape
    if query_bounds is None:
        return Sizes(batch, heads, queries, k.shape[2], queries, k.shape[2], dim, v.shape[3])
    return Sizes(query_bounds.shape[0] - 1, heads, queries, k.shape[2], most_queries, most_keys, dim, v.shape[3])


@torch.library.custom_op("momentum_fairseq::weighted_attention", mutates_args=())
def weighted_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    padding: Tensor | None,
    query_bounds: Tensor | None,
    key_bounds: Tensor | None,
    most_queries: int,
    most_keys: int,
    momentum: float,
    step_size: float,
    eps: float,
    mapped: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps); nothing may be empty.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]`; float32, bfloat16 or float16, of any strides.
        weights: float32 `[B,H,S]`, may be expanded; None = those of momentum attention (Eq. 14), from the next two numbers.
        padding: bool `[B,S]`, True = padding.
        query_bounds, key_bounds: None; or `[n+1]`: B is 1, and the n sequences lie one after the other.
        most_queries, most_keys: no sequence has more; read with bounds only.
        momentum, step_size: β, γ; 0 and 1 give linear attention.
        mapped: whether q and k are feature-mapped already; if not, elu + 1 is applied.

    Returns:
        `[B,H,N,M]` in v's dtype, in memory as `[B,N,H,M]`; and for the backward pass float32 1 / (Σ_j q_i·k_j + eps) `[B,H,N]`,
        and in linear order Σ_j w_j k_j v_jᵀ `[n,H,D,M]` and Σ_j k_j `[n,H,D]`.
    """
    size = sizes_of(q, k, v, query_bounds, most_queries, most_keys)
    out, inverse, states, sums = allocate(q, k, v, size)
    with device_of(q):
        q, k, v = (rows_contiguous(x) for x in (q, k, v))
        numbers = rate_and_scale(momentum, step_size)
        bounds = (query_bounds, key_bounds)
        if size.quadratic:
            read_quadratically(size, q, k, v, weights, padding, bounds, out, inverse, numbers, eps, mapped)
        else:
            counts = None if padding is None else counts_of(padding)
            sum_up(size, k, v, weights, None, counts, key_bounds, states, sums, numbers, mapped)
            options = tiles(size.most_queries, size, mapped, q, k, v)
            grid = (size.batch * size.heads, triton.cdiv(size.most_queries, options["ROWS"]), columns(size, options))
            read_states[grid](
                q, states, sums, query_bounds, out, inverse, q.stride(), out.stride(), eps,
                size.heads, size.queries, size.key_dim, size.value_dim, **options,
            )  # fmt: skip
    return out, inverse, states, sums
