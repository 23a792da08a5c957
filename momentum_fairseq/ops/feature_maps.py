"""Feature maps φ of linear attention, by name (Katharopoulos et al., "Transformers are RNNs", ICML 2020)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FeatureMap = Callable[[Tensor], Tensor]


def elu_plus_one(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1: positive everywhere, exp(x) below zero, x + 1 above.

    Computed in float32 at least, as exp(min(x, 0)) + max(x, 0): elu's own exp(x) − 1 has lost the digits of a small exp(x), and
    takes a CPU half as long again.

    Args:
        x: `[..., D]`, any floating dtype.

    Returns:
        `[..., D]`, float32 (float64 stays).
    """
    x = x if x.dtype == torch.float64 else x.float()
    return _EluPlusOne.apply(x) if x.requires_grad and torch.is_grad_enabled() else _EluPlusOne.forward(x)


class _EluPlusOne(torch.autograd.Function):
    """Keeps its output alone for gradients, which is what they are below zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(max=0).exp_().add_(x.clamp(min=0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> Tensor:
        return direction * ctx.saved_tensors[0].clamp(max=1)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * ctx.saved_tensors[0].clamp(max=1)


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
