"""φ(q)·φ(k) of a `ProductMap`, beside the q·k that its backward pass needs."""

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import ProductMap
from momentum_fairseq.ops.zero_padding import zero_padding_


def scores_and_products(
    q: Tensor, k: Tensor, lead: torch.Size, padding: Tensor | None, product_map: ProductMap | None
) -> tuple[Tensor, Tensor | None]:
    """q·k `[G,N,S]` and None; or, with a map, φ(q)·φ(k) without padding, and q·k. G is B·H of `lead`."""
    products = torch.bmm(q, k.transpose(1, 2))
    if product_map is None:
        return products, None
    scores = product_map.of_products(products, q.shape[2], out=torch.empty_like(products))
    if padding is not None:  # of keys that are zeros φ is not
        zero_padding_(padding, scores.unflatten(0, lead).transpose(2, 3))
    return scores, products
