"""Every form of momentum attention as a function of the same inputs, with what makes the ops take that form."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is first imported

from momentum_fairseq import ops
from momentum_fairseq.ops import linear_attention, momentum_attention
from momentum_fairseq.ops.kernel_choice import VARIABLE
from momentum_fairseq.ops.padding_free import padding_free_attention

LINEAR_MODULE, MOMENTUM_MODULE = (sys.modules[f.__module__] for f in (linear_attention, momentum_attention))


@dataclass
class Inputs:
    """What all forms get.

    Args:
        leaves: q, k, v, and behind them β and γ where they are tensors, their `names`. fixed: β and γ where they are numbers.
        mask: bool `[B,S]`, True = padding. cuts: draws where `in_pieces` cuts.
    """

    leaves: list[Tensor]
    names: tuple[str, ...]
    fixed: dict[str, Any]
    mask: Tensor | None
    cuts: random.Random

    def numbers(self, rest: tuple[Tensor, ...]) -> dict[str, Any]:
        """β and γ by name; `rest` are the leaves behind q, k and v."""
        return {**dict(zip(self.names, rest, strict=True)), **self.fixed}


def in_pieces(inputs: Inputs) -> Callable[..., Tensor]:
    """The sequence in up to four pieces, each going on from the state that the one before left."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> Tensor:
        length, state, outs = q.shape[2], None, []
        cuts = sorted(inputs.cuts.randint(0, length) for _ in range(inputs.cuts.randint(0, 3)))
        for start, end in zip([0, *cuts], [*cuts, length], strict=True):
            mask = None if inputs.mask is None else inputs.mask[:, start:end]
            part = (x[:, :, start:end] for x in (q, k, v))
            out, state = ops.causal_momentum_attention(
                *part, key_padding_mask=mask, initial_state=state, return_state=True, **inputs.numbers(rest)
            )
            outs.append(out)
        return torch.cat(outs, dim=2)

    return attend


def step_by_step(inputs: Inputs) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> Tensor:
        state, outs = None, [v[:, :, :0]]
        for i in range(q.shape[2]):
            row = (x[:, :, i] for x in (q, k, v))
            out, state = ops.momentum_attention_step(*row, state, **inputs.numbers(rest))
            outs.append(out.unsqueeze(2))
        return torch.cat(outs, dim=2)

    return attend


def without_padding(inputs: Inputs, attention: Callable[..., Tensor], causal: bool) -> Callable[..., Tensor]:
    """The real positions of all rows one after the other, and back; where causal, queries of padding are not computed."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> Tensor:
        real = torch.ones(v.shape[0], v.shape[2], dtype=torch.bool) if inputs.mask is None else ~inputs.mask
        asked = real if causal else torch.ones(q.shape[0], q.shape[2], dtype=torch.bool)

        def pack(x: Tensor, wanted: Tensor) -> Tensor:
            return x.transpose(1, 2)[wanted].transpose(0, 1).unsqueeze(0)

        bounds = [torch.cat([torch.zeros(1, dtype=torch.int64), x.sum(1).cumsum(0)]) for x in (asked, real)]
        packed = padding_free_attention(
            attention, pack(q, asked), pack(k, real), pack(v, real),
            cu_seqlens=bounds[0], key_cu_seqlens=bounds[1], **inputs.numbers(rest),
        )  # fmt: skip
        out = v.new_zeros(q.shape[0], q.shape[2], q.shape[1], v.shape[3])
        return out.index_put((asked,), packed[0].transpose(0, 1)).transpose(1, 2)

    return attend


def plain(inputs: Inputs, attention: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> Tensor:
        return attention(q, k, v, key_padding_mask=inputs.mask, **inputs.numbers(rest), **options)

    return attend


@contextmanager
def chunks_of(size: int) -> Iterator[None]:
    with mock.patch.object(MOMENTUM_MODULE, "number_of_chunks", lambda length, *_, **__: max(1, -(-length // size))):
        yield


@contextmanager
def order(quadratic: bool) -> Iterator[None]:
    with mock.patch.object(LINEAR_MODULE, "quadratic_order_is_cheaper", lambda *_: quadratic):
        yield


@contextmanager
def kernel(name: str) -> Iterator[None]:
    with mock.patch.dict(os.environ, {VARIABLE: name}):
        yield


def forms_of(inputs: Inputs, causal: bool, triton: bool) -> Iterator[tuple[str, Callable[..., Tensor], Any, torch.dtype]]:
    """Name, function of the leaves, context and dtype of each form."""
    exact, single = torch.float64, torch.float32
    if not causal:
        attend = plain(inputs, momentum_attention)
        yield "quadratic order", attend, order(True), exact
        yield "linear order", attend, order(False), exact
        yield "without padding", without_padding(inputs, momentum_attention, causal), kernel("torch"), exact
        if triton:
            yield "kernel", attend, kernel("triton"), single
            yield "kernel without padding", without_padding(inputs, momentum_attention, causal), kernel("triton"), single
        return
    attend = plain(inputs, ops.causal_momentum_attention)
    yield "causal", attend, kernel("torch"), exact
    for size in (1, 3, 16, 35):
        yield f"causal in chunks of {size}", attend, chunks_of(size), exact
    yield "causal in pieces", in_pieces(inputs), kernel("torch"), exact
    yield "causal without padding", without_padding(inputs, ops.causal_momentum_attention, causal), kernel("torch"), exact
    if inputs.mask is None:
        yield "step by step", step_by_step(inputs), kernel("torch"), exact
    if triton:
        yield "causal kernel", attend, kernel("triton"), single
        if inputs.mask is None and not inputs.leaves[0].requires_grad:
            yield "step by step kernel", step_by_step(inputs), kernel("triton"), single
