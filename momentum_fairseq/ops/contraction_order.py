"""Through which products linear attention is cheapest: q kᵀ, where a `ProductMap` needs no features, or φ(k)ᵀ v."""

from torch import Tensor

from momentum_fairseq.ops.feature_maps import FeatureMap, ProductMap


def quadratic_order_is_cheaper(queries: int, keys: int, key_dim: int, value_dim: int) -> bool:
    """Whether (q kᵀ) v costs no more multiplications than q (kᵀ v): N·S·(D+M) <= (N+S)·D·M.

    A tie goes to the quadratic order, which has no key sum to take: a quarter faster at N = D = 64 on a CPU.
    """
    return queries * keys * (key_dim + value_dim) <= (queries + keys) * key_dim * value_dim


def products_suffice(feature_map: FeatureMap | None, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether φ needn't be taken of q `[B,H,N,D]` and k: N·S·(D+M) <= (N+S)·D'·M, D' being the features that it makes of D."""
    queries, keys, dim, value_dim = q.shape[2], k.shape[2], k.shape[3], v.shape[3]
    if not isinstance(feature_map, ProductMap) or dim == 0:
        return False
    return queries * keys * (dim + value_dim) <= (queries + keys) * feature_map.width(dim) * value_dim


def take_map(
    feature_map: FeatureMap | None, q: Tensor, k: Tensor, v: Tensor, *, by_products: bool = True
) -> tuple[Tensor, Tensor, ProductMap | None]:
    """φ(q), φ(k) and None; or q, k and a φ yet to be taken of q·k, where that may be and does."""
    if by_products and products_suffice(feature_map, q, k, v):
        return q, k, feature_map
    return (q, k, None) if feature_map is None else (feature_map(q), feature_map(k), None)
