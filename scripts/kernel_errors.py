"""The error of causal momentum attention against float64, for every momentum, dtype and length: a table.

  python scripts/kernel_errors.py                   # by the kernel that `MOMENTUM_FAIRSEQ_KERNEL` or the device chooses
  python scripts/kernel_errors.py --quick           # some seconds, to see it work

Relative RMS over all outputs of ‖ours − exact‖ / ‖exact‖, one sequence, two heads of 64, on inputs rounded to the dtype first, so
that their rounding is no error of ours. And float16 over 100,000 tokens: is every output finite? Prints a markdown table, writes
kernel_errors.json and kernel_errors.md into --out.
"""

import argparse
import os
import sys
from typing import Any

import torch
from common.checked_options import add_output_folder, check_device, positive
from common.markdown_table import markdown
from common.run_record import hardware, run_record
from common.whole_file import write_json, write_text
from torch import Tensor

from momentum_fairseq.ops import causal_momentum_attention, elu_plus_one
from momentum_fairseq.ops.kernel_choice import VARIABLE, kernel_for

MOMENTA = (0.0, 0.1, 0.3, 0.6, 0.9, 0.99, 0.999)
LENGTHS = (64, 1024, 16384, 65536)
# What we hold ourselves to.
LIMITS = {"float32": 5e-7, "bfloat16": 4e-3, "float16": 4e-3}
MANY_TOKENS = 100_000


def make_inputs(length: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Positive q and k and normal v, `[1,2,N,64]`, rounded to the dtype."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, length, 64, generator=generator) for _ in range(3))
    return [x.to(device, dtype) for x in (elu_plus_one(q), elu_plus_one(k), v)]


def exact(tensors: list[Tensor], momentum: float) -> Tensor:
    """In float64 by torch's operations, which the tests hold to the recurrence."""
    chosen = os.environ.pop(VARIABLE, None)
    try:
        return causal_momentum_attention(*(x.double() for x in tensors), momentum=momentum, step_size=1.0)
    finally:
        if chosen is not None:
            os.environ[VARIABLE] = chosen


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name in LIMITS:
        for length in options.lengths:
            tensors = make_inputs(length, getattr(torch, name), options.device)
            kernel = kernel_for(tensors[0], tensors[2])
            for momentum in MOMENTA:
                ours = causal_momentum_attention(*tensors, momentum=momentum, step_size=1.0)
                expected = exact(tensors, momentum)
                error = ((ours.double() - expected).norm() / expected.norm()).item()
                place = {"dtype": name, "kernel": kernel, "length": length, "momentum": momentum}
                rows.append({**place, "relative_rms": error})
    return rows


def all_finite(tokens: int, device: torch.device) -> bool:
    """Whether every output of float16 is finite, over keys as large as ten standard deviations."""
    q, k, v = make_inputs(tokens, torch.float16, device)
    out = causal_momentum_attention(10 * q, 10 * k, v, momentum=0.999, step_size=1.0)
    return bool(out.isfinite().all())


def describe(record: dict[str, Any]) -> str:
    """The record in Markdown."""
    machine, command = record["hardware"]["device"], record["command"]
    origin = f"{machine}, {record['date']}, revision {record['git_revision']} (`{command}`)"
    rows, lines = record["errors"], []
    for dtype, kernel, length in dict.fromkeys((row["dtype"], row["kernel"], row["length"]) for row in rows):
        errors = [f"{row['relative_rms']:.1e}" for row in rows if (row["dtype"], row["length"]) == (dtype, length)]
        lines.append([dtype, kernel, str(length), *errors, f"{LIMITS[dtype]:.0e}"])
    table = markdown(["dtype", "kernel", "N", *(f"β = {momentum:g}" for momentum in MOMENTA), "limit"], lines)
    finite = "every output is finite" if record["float16_finite"] else "NOT every output is finite"
    overflow = f"float16, {record['float16_tokens']:,} tokens, β = 0.999: {finite}."
    return f"Relative RMS error against float64, {origin}.\n\n{table}\n\n{overflow}\n"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: cuda where there is one)")
    add("--lengths", nargs="+", type=positive, default=list(LENGTHS), help=f"N (default: {' '.join(map(str, LENGTHS))})")
    add("--tokens", type=positive, default=MANY_TOKENS, help=f"of the test for overflow (default: {MANY_TOKENS})")
    add_output_folder(parser)
    add("--quick", action="store_true", help="short lengths: shows that it works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.lengths, options.tokens = [64, 200], 1000
    check_device(parser, options)
    return options


def main() -> None:
    options = parse_arguments()
    with torch.no_grad():
        rows = measure(options)
        finite = all_finite(options.tokens, options.device)
    record = {
        **run_record(sys.argv),
        "hardware": hardware(options.device),
        "limits": LIMITS,
        "float16_tokens": options.tokens,
        "float16_finite": finite,
        "errors": rows,
    }
    text = describe(record)
    print(text)
    write_json(options.out / "kernel_errors.json", record)
    write_text(options.out / "kernel_errors.md", text)
    over = [row for row in rows if row["relative_rms"] > LIMITS[row["dtype"]]]
    print(f"written: {options.out / 'kernel_errors.json'}; {len(over)} of {len(rows)} errors are over their limit")


if __name__ == "__main__":
    main()
