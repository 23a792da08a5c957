"""Feature maps φ of linear attention, by name (Katharopoulos et al., "Transformers are RNNs", ICML 2020)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops.passes_by_hand import asks_for_recorded_gradients, takes_passes_by_hand

FeatureMap = Callable[[Tensor], Tensor]
LOG2_E = math.log2(math.e)
FEW = 2**12  # numbers up to which an operation's own cost is most of its time
FEW_RECORDED = 2**14  # the same, where a graph is recorded
BLOCK = 2**18  # numbers whose intermediate results stay in cache
BLOCKS = 8 * BLOCK  # numbers up to which one block is no slower


class ProductMap(ABC):
    """A map to many features whose φ(q)·φ(k) is a function of q·k: short sequences then need no features."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """φ(x): `[..., D]` → `[..., D']`."""

    @abstractmethod
    def width(self, dim: int) -> int:
        """D' of D."""

    @abstractmethod
    def of_products(self, products: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
        """φ(q)·φ(k) from q·k of D = `dim` features, float32 or better, of any shape; `out` is written over, and may be q·k."""

    @abstractmethod
    def differentiate_products_(self, direction: Tensor, products: Tensor, dim: int) -> Tensor:
        """The gradient of φ(q)·φ(k) into that of q·k, `products`, in place."""


def elu_plus_one(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1: positive everywhere, exp(x) below zero, x + 1 above.

    Computed in float32 at least: in float16 or bfloat16 the sum of -0.99… and 1 has no digits left.

    Args:
        x: `[..., D]`, any floating dtype.

    Returns:
        `[..., D]`, float32 (float64 stays).
    """
    x = x if x.dtype == torch.float64 else x.float()
    recorded = x.requires_grad and torch.is_grad_enabled()
    if x.numel() <= (FEW_RECORDED if recorded else FEW) or x.device.type != "cpu" or not takes_passes_by_hand():
        return F.elu(x).add_(1)  # in place: elu keeps its input, not its output
    return _EluPlusOne.apply(x) if recorded or x.numel() > BLOCKS else by_powers_of_two(x)


class _EluPlusOne(torch.autograd.Function):
    """With φ' = min(φ, 1): the backward pass has no exponential to take, and needs φ alone, which attention keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = by_powers_of_two(x)
        ctx.save_for_backward(out)
        ctx.save_for_forward(out)
        return out

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        slope = out.clamp(max=1)
        return slope * direction if asks_for_recorded_gradients(direction) else slope.mul_(direction)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return tangent * out.clamp(max=1)


def by_powers_of_two(x: Tensor) -> Tensor:
    """φ = 2^min(x log₂ e, 0) + max(x, 0): on a CPU torch takes powers of two in a third of the time of `exp`, or of `elu`."""
    if x.numel() <= BLOCKS:
        return torch.mul(x, LOG2_E).clamp_(max=0).exp2_().add_(F.relu(x))
    out = torch.empty_like(x)
    blocks = [(x, out)]
    if out.stride() == x.stride():  # both without gaps
        blocks = zip(*(y.as_strided((y.numel(),), (1,)).split(BLOCK) for y in (x, out)), strict=True)
    for block, of_block in blocks:
        torch.mul(block, LOG2_E, out=of_block).clamp_(max=0).exp2_().add_(F.relu(block))
    return out


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


class TaylorMap(ProductMap):
    """φ(q)·φ(k) = 1 + s + s²/2 with s = q·k / √D: softmax's exp(s) to the second order, never below a half.

    Arora et al., "Simple linear attention language models balance the recall-throughput tradeoff", ICML 2024, section 4.1. The
    features, 1, x_i / D^¼ and x_i x_j / √D (i < j; x_i² / √(2D)), are 1 + D + D (D + 1) / 2, float32 at least.
    """

    def __call__(self, x: Tensor) -> Tensor:
        x = (x if x.dtype == torch.float64 else x.float()) / x.shape[-1] ** 0.25
        i, j = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
        squares = x[..., i] * x[..., j] * torch.ones_like(i, dtype=x.dtype).masked_fill_(i == j, math.sqrt(0.5))
        return torch.cat((x.new_ones(*x.shape[:-1], 1), x, squares), dim=-1)

    def width(self, dim: int) -> int:
        """1 + D + D (D + 1) / 2."""
        return 1 + dim + dim * (dim + 1) // 2

    def of_products(self, products: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
        """1 + s + s²/2 as (1 + (1 + s)²) / 2, in two passes."""
        one_plus_s = torch.add(products.new_ones(()), products, alpha=dim**-0.5, out=out)
        return torch.addcmul(products.new_full((), 0.5), one_plus_s, one_plus_s, value=0.5, out=out)

    def differentiate_products_(self, direction: Tensor, products: Tensor, dim: int) -> Tensor:
        """Times (1 + s) / √D."""
        return torch.addcmul(direction, direction, products, value=dim**-0.5, out=direction).mul_(dim**-0.5)


def feature_width(x: Tensor, feature_map: FeatureMap | None) -> int:
    """How many features φ makes of the last axis of x; None leaves them as they are."""
    if isinstance(feature_map, ProductMap):
        return feature_map.width(x.shape[-1])
    return x.shape[-1] if feature_map is None or feature_map is elu_plus_one else feature_map(x[:0]).shape[-1]


FEATURE_MAPS: dict[str, FeatureMap] = {
    "elu": elu_plus_one,
    "squared_relu": squared_relu,
    "softmax": softmax_features,
    "hedgehog": hedgehog,
    "taylor": TaylorMap(),
}
