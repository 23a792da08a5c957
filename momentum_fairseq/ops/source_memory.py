"""What step-by-step decoding keeps of a source for its cross-attention, computed once a source.

Linear and momentum attention need of the source only Σ_j w_j k_j v_jᵀ and Σ_j k_j; where the source is shorter than the features
are wide, keys and weighted values are smaller and quicker to read.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import checked_eps
from momentum_fairseq.ops.contraction_order import quadratic_order_is_cheaper
from momentum_fairseq.ops.feature_maps import ProductMap
from momentum_fairseq.ops.precision import in_full_precision, no_autocast
from momentum_fairseq.ops.sum_of_products import sum_of_products
from momentum_fairseq.ops.zero_padding import zero_padding


class KeysAndValues(NamedTuple):
    """The source as it is, for kinds that read all of it: k `[B,H,S,D]`, v `[B,H,S,M]`, padding bool `[B,S]` or None."""

    k: Tensor
    v: Tensor
    padding: Tensor | None

    def reorder(self, order: Tensor) -> "KeysAndValues":
        """The memory of other rows of the batch, int64 `[B']`."""
        return KeysAndValues(*(None if x is None else x.index_select(0, order) for x in self))


class WeightedSource(NamedTuple):
    """Padding taken out, weights taken in, summed where that is cheaper.

    Attributes:
        k, v: `[B,H,S,D]` and weighted values `[B,H,S,M]`; or None and the sum Σ_j w_j k_j v_jᵀ `[B,H,D,M]`.
        z: None; or with the sum Σ_j k_j, `[B,H,D]`.
        product_map: φ that is yet to be taken, of q·k; else None.
        padding: with such a φ, which of a zero may be any number, the keys' mask bool `[B,S]`; else None.
    """

    k: Tensor | None
    v: Tensor
    z: Tensor | None
    product_map: ProductMap | None = None
    padding: Tensor | None = None

    def reorder(self, order: Tensor) -> "WeightedSource":
        """The memory of other rows of the batch, int64 `[B']`."""
        return WeightedSource(*(x.index_select(0, order) if isinstance(x, Tensor) else x for x in self))


class ProjectedSource(NamedTuple):
    """A short source with the projection of the joined heads taken in: what is read of it needs no join, and no projection.

    Attributes:
        k: `[B,H,S,D]`.
        v: weighted values `[B,H·S,C]`, each head's through its columns of the projection.
        bias: of the projection, `[C]` or None.
        product_map, padding: as of `WeightedSource`.
    """

    k: Tensor
    v: Tensor
    bias: Tensor | None
    product_map: ProductMap | None
    padding: Tensor | None

    def reorder(self, order: Tensor) -> "ProjectedSource":
        """The memory of other rows of the batch, int64 `[B']`."""
        k, v, padding = (None if x is None else x.index_select(0, order) for x in (self.k, self.v, self.padding))
        return self._replace(k=k, v=v, padding=padding)


def weighted_source(
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    key_padding_mask: Tensor | None,
    product_map: ProductMap | None = None,
) -> WeightedSource:
    """Remember a source; about as many queries as keys are expected.

    Args:
        k, v: `[B,H,S,D]`, already feature-mapped, and `[B,H,S,M]`.
        weights: `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`, on the numerator only; None = 1.
        key_padding_mask: bool `[B,S]`, True = padding.
        product_map: φ of a k that isn't feature-mapped yet, nor will q be: it is taken of their products.
    """
    with no_autocast(k):
        _, k, v = in_full_precision(k, k, v, key_padding_mask)
        if weights is not None:
            v = v * weights.to(v.dtype).unsqueeze(-1)
        if product_map is not None:
            return WeightedSource(k, v, None, product_map, key_padding_mask)
        if quadratic_order_is_cheaper(k.shape[2], k.shape[2], k.shape[3], v.shape[3]):
            return WeightedSource(k, v, None)
        return WeightedSource(None, sum_of_products(k, v), k.sum(-2))


def project_source(source: WeightedSource, weight: Tensor, bias: Tensor | None) -> WeightedSource | ProjectedSource:
    """Take the projection W of the joined heads into a source that is read often; as it is where that isn't quicker.

        W concat_h(a_h v_h) + b = Σ_h a_h (v_h W_hᵀ) + b

    A query then costs H S C multiplications in place of S C + C². Not where gradients are taken: theirs cost more than is spared,
    by a half on a CPU.

    Args:
        source: of keys and values; or of their sum, which stays as it is.
        weight, bias: W `[C,C]` and b `[C]` or None.
    """
    low_precision = source.v.dtype != weight.dtype or torch.is_autocast_enabled(weight.device.type)
    if source.k is None or low_precision or torch.is_grad_enabled():  # the source is in float32: dearer than low precision
        return source
    batch, heads, keys = source.k.shape[:3]
    if 2 * (heads - 1) * keys > len(weight):  # near a tie it would take many reads to make up for this
        return source
    # A product for each head: one of four dimensions would copy the weights for each sentence.
    v = torch.bmm(source.v.transpose(0, 1).flatten(1, 2), weight.t().unflatten(0, (heads, -1)))  # [H,B·S,C]
    v = v.unflatten(1, (batch, keys)).transpose(0, 1).flatten(1, 2)
    return ProjectedSource(source.k, v, bias, source.product_map, source.padding)


def read_source(q: Tensor, source: WeightedSource | ProjectedSource, *, eps: float = 1e-6) -> Tensor:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps), not causal.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped but where the source's φ is yet to be taken.
        source: of the same rows.
        eps: added to the normaliser, not negative.

    Returns:
        `[B,H,N,M]` in the source's dtype, float32 or better; zeros where a row has no real key. Of a projected source the
        heads are joined and projected: `[B,N,C]`.

    Raises:
        ValueError: eps < 0.
    """
    eps = checked_eps(eps)
    with no_autocast(q):
        q = q.to(source.v.dtype)
        if source.k is None:
            normaliser = (source.z.unsqueeze(-2) @ q.transpose(-1, -2)).transpose(-1, -2).add_(eps)  # [B,H,N,1]
            return (q @ source.v) / normaliser
        batch, heads, queries, dim = q.shape
        recorded = torch.is_grad_enabled()
        # [B·H,S,N]: to sum over keys is then to add rows, and without a copy they are the rows of the joined heads. Written over
        # where no graph would need them.
        scores = torch.bmm(source.k.flatten(0, 1), q.flatten(0, 1).transpose(1, 2))
        if source.product_map is not None:
            scores = source.product_map.of_products(scores, dim, out=None if recorded else scores)
            if source.padding is not None:
                by_head = scores.view(batch, heads, scores.shape[1], queries)
                scores = zero_padding(source.padding[:, None, :, None], by_head).flatten(0, 1)
        normaliser = scores.sum(1, keepdim=True).add_(eps)
        scores = scores / normaliser if recorded else scores.div_(normaliser)
        if not isinstance(source, ProjectedSource):
            return torch.bmm(scores.transpose(1, 2), source.v.flatten(0, 1)).unflatten(0, (batch, heads))
        scores = scores.view(batch, heads * scores.shape[1], queries).transpose(1, 2)  # [B,N,H·S]
        return torch.bmm(scores, source.v) if source.bias is None else torch.baddbmm(source.bias, scores, source.v)
