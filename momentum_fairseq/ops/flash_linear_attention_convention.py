"""Causal momentum attention as flash-linear-attention calls its ops: `[B,T,H,D]`, `output_final_state`, `cu_seqlens`."""

from torch import Tensor

from momentum_fairseq.ops.checks import checked_eps
from momentum_fairseq.ops.momentum_attention import MomentumState, causal_momentum_attention
from momentum_fairseq.ops.padding_free import padding_free_attention


def chunk_momentum_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    momentum: float | Tensor,
    step_size: float | Tensor = 1.0,
    scale: float | None = None,
    initial_state: MomentumState | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, MomentumState | None]:
    """`causal_momentum_attention`, normalised, on tensors with the heads after the positions.

    Args:
        q: queries `[B,T,H,D]`, already feature-mapped.
        k: keys `[B,T,H,D]`, already feature-mapped.
        v: values `[B,T,H,M]`.
        momentum: β in [0, 1), or a tensor `[H]`.
        step_size: γ > 0, or a tensor `[H]`.
        scale: of q, which the normaliser takes out again up to eps; None = 1/√D.
        initial_state: s, m `[B,H,D,M]` and z `[B,H,D]`, or with `cu_seqlens` a row for each sequence; None = zeros.
        output_final_state: also return the state after the last position.
        cu_seqlens: int32 or int64 `[n+1]`: B is 1, and sequence i has the positions cu_seqlens[i] … cu_seqlens[i+1] − 1.
        eps: added to the normaliser, not negative.

    Returns:
        `[B,T,H,M]`, and the final state or None.

    Raises:
        ValueError: a scale that isn't positive; and as `causal_momentum_attention` and `padding_free_attention`, of which the
            messages name the axes in the order `[B,H,T,D]`.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    eps = checked_eps(eps)
    q, k, v = (x.transpose(1, 2) if x.dim() == 4 else x for x in (q, k, v))
    numbers = {"momentum": momentum, "step_size": step_size, "eps": eps / scale}
    options = {**numbers, "initial_state": initial_state, "return_state": output_final_state}
    if cu_seqlens is None:
        result = causal_momentum_attention(q, k, v, **options)
    else:
        result = padding_free_attention(causal_momentum_attention, q, k, v, cu_seqlens=cu_seqlens, **options)
    out, state = result if output_final_state else (result, None)
    return out.transpose(1, 2), state
