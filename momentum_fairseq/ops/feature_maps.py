"""Feature maps φ of linear attention, by name (Katharopoulos et al., "Transformers are RNNs", ICML 2020)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FeatureMap = Callable[[Tensor], Tensor]


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


def softmax_features(x: Tensor) -> Tensor:
    """φ(x) = softmax over the D features, float32 at least (Shen et al., "Efficient Attention", WACV 2021, for queries).

    A query that points along one feature reads the keys that do so, and no others.
    """
    return F.softmax(x if x.dtype == torch.float64 else x.float(), dim=-1)


def hedgehog(x: Tensor) -> Tensor:
    """φ(x) = softmax of x and softmax of −x side by side, `[..., D]` → `[..., 2·D]`, float32 at least.

    Zhang et al., "The Hedgehog & the Porcupine", ICLR 2024, in its normalised form; x is a learned projection there as here.
    """
    return torch.cat((softmax_features(x), softmax_features(-x)), dim=-1)


def feature_width(x: Tensor, feature_map: FeatureMap | None) -> int:
    """How many features φ makes of the last axis of x; None leaves them as they are."""
    return x.shape[-1] if feature_map is None or feature_map is elu_plus_one else feature_map(x[:0]).shape[-1]


FEATURE_MAPS: dict[str, FeatureMap] = {
    "elu": elu_plus_one,
    "squared_relu": squared_relu,
    "softmax": softmax_features,
    "hedgehog": hedgehog,
}
