"""Random shapes, masks and parameters through all forms of momentum attention, each held to the recurrence in float64.

  python scripts/fuzz_attention.py --cases 5000 --seed 0 --out examples/benchmarks/results/fuzz.json    # 10 minutes on one core
  python scripts/fuzz_attention.py --seed 0 --only 1234                                                 # one case again

A case draws batch, heads, lengths (0 and 1 among them), dimensions, β (0 to 0.999, a number or one a head), γ and a mask; some
also compare the gradients. The torch forms are computed in float64; Triton's kernels, for a share of the cases, in float32,
natively or in Triton's interpreter. Prints a line for each form with its largest error, relative RMS, and each failure;
ends with 1 if there was one.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from run_record import hardware, run_record
from torch import Tensor
from whole_file import write_json

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is first imported

from momentum_fairseq import ops
from momentum_fairseq.ops import linear_attention, momentum_attention, recurrent_momentum_attention
from momentum_fairseq.ops.kernel_choice import HAS_TRITON, VARIABLE
from momentum_fairseq.ops.padding_free import padding_free_attention

LINEAR_MODULE, MOMENTUM_MODULE = (sys.modules[f.__module__] for f in (linear_attention, momentum_attention))
EXACT, KERNEL = 1e-10, 1e-5  # largest relative RMS of values and gradients, float64 and float32
MOMENTA = (0.0, 0.1, 0.3, 0.6, 0.9, 0.99, 0.999)
MASKS = ("none", "left", "right", "anywhere", "a row of padding only")


@dataclass(frozen=True)
class Case:
    """What is drawn of a case; `keys` is other than `queries` in non-causal forms only."""

    number: int
    batch: int
    heads: int
    queries: int
    keys: int
    dim: int
    value_dim: int
    momentum: tuple[float, ...]
    step_size: tuple[float, ...]
    per_head: bool
    mask: str
    gradients: bool
    kernel: bool


@dataclass
class Form:
    """The cases that went through a form, and its errors."""

    limit: float
    cases: int = 0
    largest: float = 0.0
    failures: list[dict[str, Any]] = field(default_factory=list)


def draw_case(seed: int, number: int, kernel_share: float) -> Case:
    """Each case by itself, so that one can be run again."""
    draw = random.Random(f"{seed} {number}")
    kernel = draw.random() < kernel_share
    most = 40 if kernel else 70
    queries, keys = (draw.choice((0, 1, 2, 3, draw.randint(4, most), draw.randint(4, most))) for _ in range(2))
    heads = draw.randint(1, 3)
    dim, value_dim = (draw.choice((1, 2, draw.randint(3, 12), draw.randint(3, 40))) for _ in range(2))
    per_head = draw.random() < 0.3
    values = heads if per_head else 1
    beta = tuple(draw.choice((*MOMENTA, draw.random())) for _ in range(values))
    gamma = tuple(draw.uniform(0.1, 3) for _ in range(values))
    batch, mask, gradients = draw.randint(0, 3), draw.choice(MASKS), draw.random() < 0.25
    return Case(number, batch, heads, queries, keys, dim, value_dim, beta, gamma, per_head, mask, gradients, kernel)


def draw_mask(kind: str, batch: int, keys: int, generator: torch.Generator) -> Tensor | None:
    """Bool `[B,S]`, True = padding, or None."""
    if kind == "none":
        return None
    if kind == "anywhere":
        return torch.rand(batch, keys, generator=generator) < 0.4
    real = torch.randint(0, keys + 1, (batch, 1), generator=generator)
    position = torch.arange(keys).expand(batch, -1)
    mask = position < keys - real if kind == "left" else position >= real
    if kind == "a row of padding only":
        mask[:1] = True
    return mask


@dataclass
class Inputs:
    """Of one direction of reading: leaves q, k, v, and β and γ where they are tensors; the mask; generators of cuts."""

    leaves: list[Tensor]
    names: tuple[str, ...]
    fixed: dict[str, Any]
    mask: Tensor | None
    cuts: random.Random

    def numbers(self, rest: tuple[Tensor, ...]) -> dict[str, Any]:
        return {**dict(zip(self.names, rest, strict=True)), **self.fixed}


def draw_inputs(case: Case, seed: int, causal: bool) -> Inputs:
    generator = torch.Generator().manual_seed(hash((seed, case.number, causal)) % 2**63)
    keys = case.queries if causal else case.keys

    def normal(length: int, width: int) -> Tensor:
        return torch.randn(case.batch, case.heads, length, width, generator=generator, dtype=torch.float64)

    leaves = [ops.elu_plus_one(normal(case.queries, case.dim)), ops.elu_plus_one(normal(keys, case.dim))]
    leaves.append(normal(keys, case.value_dim))
    numbers = {"momentum": case.momentum, "step_size": case.step_size}
    if case.per_head:
        leaves += [torch.tensor(x, dtype=torch.float64) for x in numbers.values()]
    fixed = {} if case.per_head else {name: x[0] for name, x in numbers.items()}
    mask = draw_mask(case.mask, case.batch, keys, generator)
    cuts = random.Random(f"{seed} {case.number} {causal}")
    return Inputs([x.requires_grad_(case.gradients) for x in leaves], tuple(numbers) if case.per_head else (), fixed, mask, cuts)


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


def values_of(function: Callable[..., Tensor], leaves: list[Tensor], dtype: torch.dtype, rows: Tensor | None) -> list[Tensor]:
    """The output, where `rows` `[B,1,N,1]` are wanted, and the gradients of a fixed projection if the leaves take any."""
    leaves = [x.detach().to(dtype).requires_grad_(x.requires_grad) for x in leaves]
    out = function(*leaves)
    out = out if rows is None else torch.where(rows, out, 0)
    if not leaves[0].requires_grad:
        return [out]
    if out.numel() == 0:  # of nothing the recurrence has no gradients
        return [out.detach(), *(torch.zeros_like(x) for x in leaves)]
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, direction, materialize_grads=True)]


def error(ours: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative RMS of output and gradients; of gradients that cancel, as of one key alone, to the output's size."""
    if any(not x.isfinite().all() or x.shape != y.shape for x, y in zip(ours, exact, strict=True)):
        return float("inf")
    least = 0.1 * exact[0].norm().item()
    sizes = [max(y.norm().item(), least) or 1.0 for y in exact]
    return max((x.double() - y).norm().item() / size for x, y, size in zip(ours, exact, sizes, strict=True))


def run_case(case: Case, seed: int, forms: dict[str, Form]) -> None:
    """Compare all forms of the case, and note their errors."""
    for causal in (True, False):
        inputs = draw_inputs(case, seed, causal)
        # A query of a padding position is not computed without padding, so it is left out of every comparison.
        rows = None if inputs.mask is None or not causal else ~inputs.mask[:, None, :, None]
        exact = values_of(plain(inputs, recurrent_momentum_attention, causal=causal), inputs.leaves, torch.float64, rows)
        for name, function, context, dtype in forms_of(inputs, causal, case.kernel and HAS_TRITON):
            form = forms.setdefault(name, Form(EXACT if dtype == torch.float64 else KERNEL))
            form.cases += 1
            try:
                with context:
                    found, message = error(values_of(function, inputs.leaves, dtype, rows), exact), ""
            except Exception as problem:  # one failing case must not hide the others
                found, message = float("inf"), f"{type(problem).__name__}: {problem}"
            form.largest = max(form.largest, found)
            if not found <= form.limit:
                form.failures.append({"error": found, "message": message, **asdict(case)})


def fuzz(cases: range, seed: int, kernel_share: float) -> dict[str, Form]:
    """All forms by name, after all cases."""
    forms: dict[str, Form] = {}
    for number in cases:
        run_case(draw_case(seed, number, kernel_share), seed, forms)
    return forms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000, help="(default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--kernel-share", type=float, default=0.01, help="of the cases also through Triton's kernels (0.01)")
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    cases = range(options.cases) if options.only is None else range(options.only, options.only + 1)
    start = time.perf_counter()
    forms = fuzz(cases, options.seed, options.kernel_share)
    seconds = round(time.perf_counter() - start, 1)
    for name, form in forms.items():
        errors = f"largest error {form.largest:7.1e}, limit {form.limit:.0e}"
        print(f"{name:26} {form.cases:6} cases, {errors}, {len(form.failures)} failed")
        for failure in form.failures[:5]:
            print(f"    {failure}")
    failed = sum(len(form.failures) for form in forms.values())
    print(f"{len(cases)} cases, {failed} failures, {seconds} s")
    if options.out is not None:
        record = {**run_record(sys.argv), **hardware(torch.device("cpu")), "cases": len(cases), "seed": options.seed}
        found = {name: asdict(form) for name, form in forms.items()}
        write_json(options.out, {**record, "seconds": seconds, "failures": failed, "forms": found})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
