"""What step-by-step decoding keeps of a source for its cross-attention, computed once a source.

Linear and momentum attention need of the source only Σ_j w_j k_j v_jᵀ and Σ_j k_j; where the source is shorter than the features
are wide, keys and weighted values are smaller and quicker to read.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.checks import checked_eps
from momentum_fairseq.ops.contraction_order import quadratic_order_is_cheaper
from momentum_fairseq.ops.precision import in_full_precision, no_autocast
from momentum_fairseq.ops.sum_of_products import sum_of_products

FEW_KEYS = 64  # of all sentences of a batch


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
    """

    k: Tensor | None
    v: Tensor
    z: Tensor | None

    def reorder(self, order: Tensor) -> "WeightedSource":
        """The memory of other rows of the batch, int64 `[B']`."""
        return WeightedSource(*(None if x is None else x.index_select(0, order) for x in self))


class ProjectedSource(NamedTuple):
    """A short source with the projection of the joined heads taken in: reading it needs no split into heads, and no join.

    Attributes:
        k: `[B,H·S,H·D]`, zeros where key and query are of different heads.
        v: weighted values `[B,H·S,C]`, through the projection without its bias.
        heads: H.
    """

    k: Tensor
    v: Tensor
    heads: int

    def reorder(self, order: Tensor) -> "ProjectedSource":
        """The memory of other rows of the batch, int64 `[B']`."""
        return ProjectedSource(self.k.index_select(0, order), self.v.index_select(0, order), self.heads)


def weighted_source(k: Tensor, v: Tensor, weights: Tensor | None, key_padding_mask: Tensor | None) -> WeightedSource:
    """Remember a source; about as many queries as keys are expected.

    Args:
        k, v: `[B,H,S,D]`, already feature-mapped, and `[B,H,S,M]`.
        weights: `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`, on the numerator only; None = 1.
        key_padding_mask: bool `[B,S]`, True = padding.
    """
    with no_autocast(k):
        _, k, v = in_full_precision(k, k, v, key_padding_mask)
        if weights is not None:
            v = v * weights.to(v.dtype).unsqueeze(-1)
        if quadratic_order_is_cheaper(k.shape[2], k.shape[2], k.shape[3], v.shape[3]):
            return WeightedSource(k, v, None)
        return WeightedSource(None, sum_of_products(k, v), k.sum(-2))


def project_source(source: WeightedSource, weight: Tensor) -> WeightedSource | ProjectedSource:
    """Take the projection W of the joined heads into a source that is read often; as it is where that isn't quicker.

        W concat_h(a_h v_h) = Σ_h a_h (v_h W_hᵀ)

    A query then costs 2 H S C multiplications in place of 2 S C + C², in products about half as quick as a projection. Not where
    gradients are taken: theirs cost more than is spared, by a half on a CPU. Nor of few keys, as of one sentence: what spares ten
    passes a few operations takes as long itself.

    Args:
        source: of keys and values; or of their sum, which stays as it is.
        weight: W `[C,C]`.
    """
    low_precision = source.v.dtype != weight.dtype or torch.is_autocast_enabled(weight.device.type)
    if source.k is None or low_precision or torch.is_grad_enabled():  # the source is in float32: dearer than low precision
        return source
    batch, heads, keys, key_dim = source.k.shape
    if batch * keys < FEW_KEYS or (4 * heads - 2) * keys > len(weight):
        return source
    k = source.k.new_zeros(batch, heads, keys, heads, key_dim)
    k.diagonal(dim1=1, dim2=3).copy_(source.k.permute(0, 2, 3, 1))
    # A product for each head: one of four dimensions would copy the weights for each sentence.
    v = torch.bmm(source.v.transpose(0, 1).flatten(1, 2), weight.t().unflatten(0, (heads, -1)))  # [H,B·S,C]
    return ProjectedSource(k.flatten(3).flatten(1, 2), v.unflatten(1, (batch, keys)).transpose(0, 1).flatten(1, 2), heads)


def read_source(q: Tensor, source: WeightedSource | ProjectedSource, *, eps: float = 1e-6) -> Tensor:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps), not causal.

    Args:
        q: queries `[B,H,N,D]`, already feature-mapped.
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
        if isinstance(source, ProjectedSource):
            scores = q.transpose(1, 2).flatten(2) @ source.k.transpose(1, 2)  # [B,N,H·S]
            return normalised(scores.unflatten(2, (source.heads, -1)), eps, keys=3).flatten(2) @ source.v
        if source.k is None:
            normaliser = (source.z.unsqueeze(-2) @ q.transpose(-1, -2)).transpose(-1, -2).add_(eps)  # [B,H,N,1]
            return (q @ source.v) / normaliser
        scores = source.k @ q.transpose(-1, -2)  # [B,H,S,N]: to sum over keys is then to add rows
        return normalised(scores, eps, keys=2).transpose(-1, -2) @ source.v


def normalised(scores: Tensor, eps: float, *, keys: int) -> Tensor:
    """Scores over their sums over the axis of the keys, in place where no gradients are taken."""
    normaliser = scores.sum(keys, keepdim=True).add_(eps)
    return scores / normaliser if torch.is_grad_enabled() else scores.div_(normaliser)
