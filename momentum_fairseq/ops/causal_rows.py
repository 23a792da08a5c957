"""Causal attention of a sequence that is one chunk: both passes by hand, some rows of the square of scores at a time."""

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import ProductMap
from momentum_fairseq.ops.scores_and_products import scores_and_products

# Queries that are read at a time: twice as many take as long, half as many longer.
ROWS = 64


def attend_in_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    within: Tensor | None,
    eps: float,
    product_map: ProductMap | None,
    padding: Tensor | None,
) -> tuple[Tensor, ...]:
    """Some queries at a time, each with the keys up to theirs.

    Args as of `causal_attention`.

    Returns:
        The output `[B,H,N,M]`; for the other pass the normaliser `[B·H,N,1]`, and of each ROWS queries the weighted scores
        `[B·H,ROWS,S]`, S the keys up to the last of them; after all of those, with a map, the same of q·k.
    """
    lead, length = q.shape[:2], q.shape[2]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    outs, normalisers, saved, products = [], [], [], []
    for start in range(0, length, ROWS):
        end = min(start + ROWS, length)
        of_keys = None if padding is None else padding[:, :, :end]
        scores, unmapped = scores_and_products(q[:, start:end], k[:, :end], lead, of_keys, product_map)
        if unmapped is not None:
            products.append(unmapped)
        scores[:, :, start:].tril_()
        normalisers.append(scores.sum(-1, keepdim=True))
        if within is not None:
            scores.unflatten(0, lead).mul_(within[:, :, 0, start:end, :end])
        outs.append(torch.bmm(scores, v[:, :end]))
        saved.append(scores)
    normaliser = joined(normalisers).add_(eps)
    return joined(outs).div_(normaliser).unflatten(0, lead), normaliser, *saved, *products


def differentiate_in_rows(
    direction: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    normaliser: Tensor,
    *saved: Tensor,
    within: Tensor | None,
    product_map: ProductMap | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v from that of the output; the last queries first, since theirs reach all keys.

    Args:
        out, normaliser, saved: what `attend_in_rows` gave.
    """
    lead, length = q.shape[:2], q.shape[2]
    q, k, v, out, direction = (x.flatten(0, 1) for x in (q, k, v, out, direction))
    of_normaliser = (direction * out).sum(-1, keepdim=True).div_(normaliser).neg_()
    direction = direction / normaliser
    of_q, of_k, of_v = [], None, None
    starts = range(0, length, ROWS)
    for i in reversed(range(len(starts))):
        start, scores = starts[i], saved[i]
        end = min(start + ROWS, length)
        of_scores = torch.bmm(direction[:, start:end], v[:, :end].transpose(1, 2))
        if within is not None:
            of_scores.unflatten(0, lead).mul_(within[:, :, 0, start:end, :end])
        of_scores.add_(of_normaliser[:, start:end])[:, :, start:].tril_()
        if product_map is not None:
            product_map.differentiate_products_(of_scores, saved[len(starts) + i], q.shape[2])
        of_q.insert(0, torch.bmm(of_scores, k[:, :end]))
        of_keys = torch.bmm(of_scores.transpose(1, 2), q[:, start:end])
        of_values = torch.bmm(scores.transpose(1, 2), direction[:, start:end])
        if of_k is None:
            of_k, of_v = of_keys, of_values
        else:
            of_k[:, :end] += of_keys
            of_v[:, :end] += of_values
    return tuple(x.unflatten(0, lead) for x in (joined(of_q), of_k, of_v))


def joined(rows: list[Tensor]) -> Tensor:
    """`[B·H,ROWS,M]` each → `[B·H,N,M]`."""
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
