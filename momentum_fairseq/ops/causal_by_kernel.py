"""Causal attention by the implementation that `kernel_choice` names, where it isn't torch's own operations."""

from torch import Tensor

from momentum_fairseq.ops.feature_maps import FeatureMap, elu_plus_one
from momentum_fairseq.ops.kernel_choice import VARIABLE, kernel_for
from momentum_fairseq.ops.reference import recurrent_momentum_attention

State = tuple[Tensor, Tensor | None, Tensor]


def causal_by_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    momentum: float | Tensor | None,
    step_size: float | Tensor = 1.0,
    key_padding_mask: Tensor | None,
    eps: float,
    initial_state: State | None,
    return_state: bool,
    feature_map: FeatureMap | None,
    bounds: Tensor | None = None,
    longest: int | None = None,
) -> tuple[Tensor, State | None] | None:
    """Output and, where wanted, the state s, m, z; None where torch's own operations are to compute them.

    Args as of `causal_momentum_attention`, checked; without momentum it is `causal_linear_attention`, and m is not read.
    `bounds` and `longest` as of `causal_attention_by_triton`, which alone takes them.

    Raises:
        ValueError: MOMENTUM_FAIRSEQ_KERNEL names what can't compute this.
    """
    kernel = kernel_for(q, v, feature_map)
    if kernel == "torch" or (kernel == "triton" and 0 in (*q.shape, *v.shape)):
        return None
    on_the_way = kernel == "triton" and feature_map is elu_plus_one
    if feature_map is not None and not on_the_way:
        q, k = feature_map(q), feature_map(k)
    more = {"step_size": step_size, "key_padding_mask": key_padding_mask, "eps": eps}
    if kernel == "triton":
        from momentum_fairseq.ops.kernels.causal import causal_attention_by_triton  # only where triton is installed

        state = {"initial_state": initial_state, "return_state": return_state, "bounds": bounds, "longest": longest}
        return causal_attention_by_triton(q, k, v, momentum=momentum, feature_map=on_the_way, **state, **more)
    if initial_state is not None or return_state:
        raise ValueError(f"{VARIABLE}=reference: the reference takes and returns no state; set it to torch or leave it unset")
    return recurrent_momentum_attention(q, k, v, momentum=0.0 if momentum is None else momentum, **more), None
