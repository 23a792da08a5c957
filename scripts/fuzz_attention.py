"""Random shapes, masks and parameters through all forms of momentum attention, each held to the recurrence in float64.

  python scripts/fuzz_attention.py --cases 5000 --seed 0 --out examples/benchmarks/results/fuzz.json    # 10 minutes on one core
  python scripts/fuzz_attention.py --seed 0 --only 1234                                                 # one case again

A case draws batch, heads, lengths (0 and 1 among them), dimensions, β (0 to 0.999, a number or one a head), γ and a mask; some
also compare the gradients. The torch forms are computed in float64; Triton's kernels, for a share of the cases, in float32,
natively or in Triton's interpreter. Prints a line for each form with its largest error, relative RMS, and each failure;
ends with 1 if there was one.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from common.attention_forms import Inputs, forms_of, plain
from common.checked_options import output_file
from common.run_record import hardware, run_record
from common.whole_file import write_json
from torch import Tensor

from momentum_fairseq import ops
from momentum_fairseq.ops import recurrent_momentum_attention
from momentum_fairseq.ops.kernel_choice import HAS_TRITON

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
    parser.add_argument("--out", type=output_file, help="JSON file to write")
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
