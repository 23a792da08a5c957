"""Causal products without a normaliser, for attentions that divide by something of their own or by nothing."""

from typing import NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.causal_chunks import chunked, number_of_chunks, states_between


class ProductState(NamedTuple):
    """What a prefix leaves behind: Σ_j k_j v_jᵀ `[B,H,D,M]`, float32 or better."""

    s: Tensor

    def reorder(self, order: Tensor) -> "ProductState":
        """The state of other rows of the batch, int64 `[B']`."""
        return ProductState(self.s.index_select(0, order))


def causal_product(q: Tensor, k: Tensor, v: Tensor, state: ProductState | None) -> tuple[Tensor, ProductState]:
    """Σ_{j≤i} (q_i·k_j) v_j, in time and memory linear in N.

    Args:
        q, k, v: `[B,H,N,D]`, `[B,H,N,D]`, `[B,H,N,M]` in the dtype to sum in; padding keys are zeros.
        state: of the keys before the first one; None = there are none.

    Returns:
        `[B,H,N,M]`, and the state after the last key.
    """
    length = q.shape[2]
    chunks = number_of_chunks(length, k.shape[3], v.shape[3], matrices=1)
    q, k, v = (chunked(x, chunks) for x in (q, k, v))
    states, _ = states_between(k, v, None, None if state is None else state.s.to(v.dtype), None)
    out = (q @ k.transpose(-1, -2)).tril() @ v + q @ states[:, :, :-1]
    # A copy: a view would keep the states of all chunks.
    return out.flatten(2, 3)[:, :, :length], ProductState(states[:, :, -1].clone(memory_format=torch.contiguous_format))
