"""Non-causal attention with both passes written by hand, in place, in less time than a recorded graph's."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import ProductMap
from momentum_fairseq.ops.passes_by_hand import asks_for_recorded_gradients, recorded_gradients
from momentum_fairseq.ops.precision import no_autocast
from momentum_fairseq.ops.scores_and_products import scores_and_products
from momentum_fairseq.ops.sum_of_products import sum_of_products
from momentum_fairseq.ops.zero_padding import zero_padding_

Plain = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class KeyWeights(NamedTuple):
    """Weights `scale` × (1 for the keys before `first`, `rest` from there on).

    Attributes:
        rest: `[S-first]`, `[H,S-first]`, `[B,1,S-first]` or `[B,H,S-first]`; None = 1.
    """

    scale: float
    first: int
    rest: Tensor | None

    def flat(self, batch: int, heads: int) -> "KeyWeights":
        """The same for all heads of all sentences together: rest `[1 or B·H,S-first]`."""
        if self.rest is None:
            return self
        several = self.rest.dim() > 1
        return self._replace(rest=self.rest.expand(batch, heads, -1).flatten(0, 1) if several else self.rest.unsqueeze(0))

    @classmethod
    def of(cls, weights: Tensor | None) -> "KeyWeights":
        """Weights `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`; None = 1."""
        return cls(1.0, 0, None if weights is None else weights.detach())

    def weigh_rows_(self, x: Tensor) -> Tensor:
        """`[G,S,M]` times all but the scale, in place."""
        if self.rest is not None:
            x[:, self.first :].mul_(self.rest.unsqueeze(2))
        return x

    def weigh_columns_(self, x: Tensor) -> Tensor:
        """`[G,N,S]` times all but the scale, in place."""
        if self.rest is not None:
            x[:, :, self.first :].mul_(self.rest.unsqueeze(1))
        return x


def attention_by_hand(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor | None,
    steady: KeyWeights | None,
    padding: Tensor | None,
    eps: float,
    quadratic: bool,
    plain: Plain,
    product_map: ProductMap | None = None,
) -> Tensor:
    """Σ_j w_j (q_i·k_j) v_j / (Σ_j q_i·k_j + eps): `[B,H,N,D]`, `[B,H,S,D]`, `[B,H,S,M]` of one dtype → `[B,H,N,M]`.

    Args:
        weights: w `[S]`, `[H,S]`, `[B,1,S]` or `[B,H,S]`, positive at real keys; None = 1.
        steady: says the same of fixed weights more shortly.
        padding: bool `[B,1,S,1]`.
        quadratic: (q kᵀ) v, else q (kᵀ v).
        plain: the same of q, k, v and the weights in torch's own operations, for what is differentiated more than once.
        product_map: φ of q and k that aren't feature-mapped yet, in the quadratic order.
    """
    steady = steady or KeyWeights.of(weights)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, weights)):
        return _Attention.apply(q, k, v, weights, steady, padding, eps, quadratic, plain, product_map)
    out, *_ = attend(q, k, v, steady, padding, eps, quadratic, product_map)
    return out.unflatten(0, q.shape[:2])


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: KeyWeights,
    padding: Tensor | None,
    eps: float,
    quadratic: bool,
    product_map: ProductMap | None,
) -> tuple[Tensor, tuple[Tensor, ...], KeyWeights, tuple[Tensor | None, ...]]:
    """`attention_by_hand`'s output `[B·H,N,M]`, q, k, v and the weights as flat, and what else the backward pass needs."""
    lead = q.shape[:2]
    flat = q, *((k, v) if padding is None else (zero_padding_(padding, copied(x)) for x in (k, v)))
    flat, weights = tuple(x.flatten(0, 1) for x in flat), weights.flat(*lead)
    if not quadratic:
        out, *saved = attend_by_state(*flat, weights, eps)
        return out, flat, weights, tuple(saved)
    scores, products = scores_and_products(*flat[:2], lead, padding, product_map)
    out, *saved = attend_by_scores(scores, flat[2], weights, eps)
    return out, flat, weights, (*saved, products)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        weights: Tensor | None,
        steady: KeyWeights,
        padding: Tensor | None,
        eps: float,
        quadratic: bool,
        plain: Plain,
        product_map: ProductMap | None,
    ) -> Tensor:
        """Arguments as of `attention_by_hand`."""
        out, flat, steady, saved = attend(q, k, v, steady, padding, eps, quadratic, product_map)
        ctx.save_for_backward(q, k, v, weights, padding, *flat, out, *saved)
        ctx.constants = steady, quadratic, plain, product_map
        return out.unflatten(0, q.shape[:2])

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, padding, *saved = ctx.saved_tensors
        steady, quadratic, plain, product_map = ctx.constants
        needed = ctx.needs_input_grad[:4]
        with no_autocast(direction):
            if asks_for_recorded_gradients(direction):
                return *recorded_gradients(plain, (q, k, v, weights), needed, [direction]), *[None] * 6
            by_scores = partial(differentiate_by_scores, product_map=product_map)
            differentiate = by_scores if quadratic else differentiate_by_state
            *gradients, of_weights = differentiate(direction.flatten(0, 1), *saved, weights=steady, learned=needed[3])
            of_q, of_k, of_v = (x.unflatten(0, q.shape[:2]) for x in gradients)
            of_k = of_k if padding is None else zero_padding_(padding, of_k)
            if of_weights is not None:
                of_weights = of_weights.unflatten(0, q.shape[:2]).sum_to_size(weights.shape)
            return of_q, of_k, of_v, of_weights, *[None] * 6


def copied(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def attend_by_scores(scores: Tensor, v: Tensor, weights: KeyWeights, eps: float) -> tuple[Tensor, ...]:
    """Output, weighted scores over the normaliser `[G,N,S]`, in place of the scores, and one over the normaliser `[G,N,1]`."""
    inverse = scores.sum(2, keepdim=True).add_(eps).reciprocal_()
    weights.weigh_columns_(scores).mul_(weights.scale * inverse)
    return torch.bmm(scores, v), scores, inverse


def differentiate_by_scores(
    direction: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    scores: Tensor,
    inverse: Tensor,
    products: Tensor | None,
    *,
    weights: KeyWeights,
    learned: bool,
    product_map: ProductMap | None,
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v and, where they are `learned`, of the weights `[G,S]`; that of k is of no use at padding."""
    of_normaliser = (direction * out).sum(2, keepdim=True).mul_(inverse).neg_()
    of_scores = torch.bmm(direction, v.transpose(1, 2))
    of_weights = None
    if learned:  # at padding a weight may be zero, and its gradient is
        of_weights = (of_scores * scores).sum(1).div_(weights.rest.clamp(min=torch.finfo(v.dtype).tiny))
    of_scores = weights.weigh_columns_(of_scores)
    of_scores = torch.addcmul(of_normaliser, of_scores, weights.scale * inverse, out=of_scores)
    if product_map is not None:
        product_map.differentiate_products_(of_scores, products, q.shape[2])
    of_k, of_v = torch.bmm(of_scores.transpose(1, 2), q), torch.bmm(scores.transpose(1, 2), direction)
    return torch.bmm(of_scores, k), of_k, of_v, of_weights


def attend_by_state(q: Tensor, k: Tensor, v: Tensor, weights: KeyWeights, eps: float) -> tuple[Tensor, ...]:
    """Output, normaliser `[G,N,1]`, state Σ_j w_j v_j k_jᵀ `[G,M,D]` and key sum `[G,1,D]`."""
    scale, first, rest = weights
    last = v[:, first:] if rest is None else v[:, first:] * rest.unsqueeze(2)
    state = sum_of_products(last, k[:, first:], scale=scale)
    if first:
        sum_of_products(v[:, :first], k[:, :first], onto=state, scale=scale)
    sums = k.sum(1, keepdim=True)
    # A product with one row: half the time of one with one column, or of a sum over q * k.
    normaliser = torch.bmm(sums, q.transpose(1, 2)).add_(eps).transpose(1, 2)
    return torch.bmm(q, state.transpose(1, 2)).div_(normaliser), normaliser, state, sums


def differentiate_by_state(
    direction: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    normaliser: Tensor,
    state: Tensor,
    sums: Tensor,
    *,
    weights: KeyWeights,
    learned: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v and, where they are `learned`, of the weights `[G,S]`."""
    of_normaliser = (direction * out).sum(-1, keepdim=True).div_(normaliser).neg_()
    direction = direction / normaliser
    of_q = torch.bmm(direction, state).baddbmm_(of_normaliser, sums)
    of_state = sum_of_products(direction, q, scale=weights.scale)
    of_k = weights.weigh_rows_(torch.bmm(v, of_state)).add_(torch.bmm(of_normaliser.transpose(1, 2), q))
    of_v = torch.bmm(k, of_state.transpose(1, 2))
    of_weights = (of_v * v).sum(2) if learned else None
    return of_q, of_k, weights.weigh_rows_(of_v), of_weights
