"""Feature maps φ of linear attention, by name (Katharopoulos et al., "Transformers are RNNs", ICML 2020)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def elu_plus_one(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1: positive everywhere, exp(x) below zero, x + 1 above.

    Computed in float32 at least: in float16 or bfloat16 the sum of -0.99… and 1 has no digits left.

    Args:
        x: `[..., D]`, any floating dtype.

    Returns:
        `[..., D]`, float32 (float64 stays).
    """
    return F.elu(x if x.dtype == torch.float64 else x.float()).add_(1)  # in place: elu keeps its input, not its output


def squared_relu(x: Tensor) -> Tensor:
    """φ(x) = relu(x)², float32 at least; a query with no positive feature reads zeros."""
    return F.relu(x if x.dtype == torch.float64 else x.float()).square()


FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": elu_plus_one,
    "squared_relu": squared_relu,
}
