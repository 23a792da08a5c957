"""Time and peak memory of the attention kinds over lengths and dimensions, side by side in one run.

  python scripts/benchmark_attention.py                 # 5 minutes on 2 cores; with --quick some seconds, to see it work
  python scripts/benchmark_attention.py --causal --lengths 64 128 256 512 1024 2048 4096 8192 --dims 32 64 --masks none
  python scripts/benchmark_attention.py --device cuda --dtype bfloat16 --tokens 65536

Time: all kinds get the same q, k, v [B,H,N,D], B·N constant, without and with a key padding mask. The kinds take turns of 10 ms;
ratios are to softmax, the median over the turns of the ratio within a turn. q and k stand for φ(q) and φ(k), except in
`momentum+features`, where computing φ from unmapped q and k is timed with it. Memory: the most that torch's allocator held for
one sentence beyond the inputs. Prints a table, writes attention.json and attention.png, or causal_attention.json and .png, into
--out.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from common.checked_options import add_output_folder, check_place, positive, positive_seconds
from common.measuring import BASELINE, keep_freed_memory, peak_bytes, r_squared, time_side_by_side
from common.panels import write
from common.run_record import hardware, run_record
from plot_attention import plot
from torch import Tensor

from momentum_fairseq import ops

PASSES = ("forward", "forward+backward")
WITH_FEATURES = "momentum+features"
MASKS = ("none", "padded")

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, dict[str, float]], Tensor]


def kinds_of(
    softmax: Callable[..., Tensor], linear: Callable[..., Tensor], momentum: Callable[..., Tensor]
) -> dict[str, Attention]:
    """The three ops and momentum with its features, called alike: q, k, v, mask, and β and γ."""
    phi = ops.elu_plus_one
    return {
        "softmax": lambda q, k, v, mask, numbers: softmax(q, k, v, key_padding_mask=mask),
        "linear": lambda q, k, v, mask, numbers: linear(q, k, v, key_padding_mask=mask),
        "momentum": lambda q, k, v, mask, numbers: momentum(q, k, v, key_padding_mask=mask, **numbers),
        WITH_FEATURES: lambda q, k, v, mask, numbers: momentum(phi(q), phi(k), v, key_padding_mask=mask, **numbers),
    }


KINDS = kinds_of(ops.softmax_attention, ops.linear_attention, ops.momentum_attention)
CAUSAL_KINDS = kinds_of(ops.causal_softmax_attention, ops.causal_linear_attention, ops.causal_momentum_attention)


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    direction: Tensor  # what the backward pass starts from


def make_inputs(
    options: argparse.Namespace, batch: int, length: int, dim: int, mask: str, pass_: str, *, mapped: bool
) -> Inputs:
    """q and k of both signs, or φ of them; the mask pads each sentence but the first by up to a quarter."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, options.heads, length, dim)
    q, k, v, direction = (torch.randn(shape, generator=generator) for _ in range(4))
    tensors = [*map(ops.elu_plus_one, (q, k)), v] if mapped else [q, k, v]
    tensors = [x.to(options.device, options.torch_dtype).requires_grad_(pass_ != "forward") for x in tensors]
    missing = torch.randint(0, length // 4 + 1, (batch, 1), generator=generator)
    missing[0] = 0
    padding = (torch.arange(length) >= length - missing).to(options.device)
    return Inputs(*tensors, padding if mask == "padded" else None, direction.to(options.device, options.torch_dtype))


def make_call(attention: Attention, inputs: Inputs, pass_: str, numbers: dict[str, float]) -> Callable[[], Any]:
    """One forward, or forward and backward, of a kind of attention."""
    q, k, v, mask, direction = inputs

    def forward() -> Tensor:
        with torch.no_grad():
            return attention(q, k, v, mask, numbers)

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attention(q, k, v, mask, numbers), (q, k, v), direction)

    return forward if pass_ == "forward" else forward_and_backward


def run_times(options: argparse.Namespace, numbers: dict[str, float]) -> list[dict[str, Any]]:
    attentions, rows = CAUSAL_KINDS if options.causal else KINDS, []
    for pass_ in options.passes:
        for mask in options.masks:
            for dim in options.dims:
                print(f"\n{pass_}, D = {dim}, mask: {mask}\n{'N':>6} {'B':>5}{heading(options.kinds)}")
                for length in options.lengths:
                    batch = max(1, options.tokens // length)
                    unmapped, mapped = (make_inputs(options, batch, length, dim, mask, pass_, mapped=x) for x in (False, True))
                    calls = {
                        kind: make_call(attentions[kind], unmapped if kind == WITH_FEATURES else mapped, pass_, numbers)
                        for kind in options.kinds
                    }
                    results = time_side_by_side(calls, options.seconds, options.device)
                    print(f"{length:6} {batch:5}{cells(results)}", flush=True)
                    place = {"pass": pass_, "mask": mask, "dim": dim, "length": length, "batch": batch}
                    rows += [{**place, "kind": kind, **result} for kind, result in results.items()]
    return rows


def heading(kinds: list[str]) -> str:
    return "".join(f"{kind + ' ms':>21}" + ("" if kind == BASELINE else f"{'ratio (min)':>16}") for kind in kinds)


def cells(results: dict[str, dict[str, float]]) -> str:
    text = ""
    for kind, result in results.items():
        text += f"{result['median_ms']:21.3f}"
        if kind != BASELINE:
            ratios = f"{result['ratio']:.3f} ({result['min_ratio']:.3f})" if "ratio" in result else ""
            text += f"{ratios:>16}"
    return text


def run_memory(options: argparse.Namespace, numbers: dict[str, float]) -> list[dict[str, Any]]:
    attentions, rows = CAUSAL_KINDS if options.causal else KINDS, []
    for pass_ in options.passes:
        for dim in options.dims:
            for kind in options.kinds:
                peaks = []
                for length in options.lengths:
                    inputs = make_inputs(options, 1, length, dim, "none", pass_, mapped=kind != WITH_FEATURES)
                    peaks.append(peak_bytes(make_call(attentions[kind], inputs, pass_, numbers), options.device))
                place = {"pass": pass_, "dim": dim, "kind": kind, "batch": 1}
                rows.append({**place, "lengths": options.lengths, "peak_bytes": peaks})
                rows[-1]["r_squared_against_length"] = r_squared(options.lengths, peaks)
    return rows


def print_memory(rows: list[dict[str, Any]]) -> None:
    print("\npeak memory in MB of one sentence, beyond the inputs; R² of a straight line in N")
    for row in rows:
        fit = row["r_squared_against_length"]
        peaks = " ".join(f"{peak / 1e6:.2f}" for peak in row["peak_bytes"])
        fit_text = "" if fit is None else f"  R² {fit:.5f}"
        print(f"{row['pass']:>16} D = {row['dim']:<4} {row['kind']:<18} {peaks}{fit_text}")


def print_extremes(rows: list[dict[str, Any]]) -> None:
    """The largest and the smallest ratio to softmax of each kind, pass and mask."""
    print()
    rows = [row for row in rows if "ratio" in row and row["kind"] != BASELINE]
    for pass_, mask, kind in dict.fromkeys((row["pass"], row["mask"], row["kind"]) for row in rows):
        own = sorted(
            (row for row in rows if (row["pass"], row["mask"], row["kind"]) == (pass_, mask, kind)),
            key=lambda row: row["ratio"],
        )
        slow, fast = (f"{row['ratio']:.3g} × (N = {row['length']}, D = {row['dim']})" for row in (own[-1], own[0]))
        print(f"{pass_}, mask {mask}: {kind} / softmax is at most {slow}, at least {fast}")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what to compare (default: all)")
    add("--lengths", nargs="+", type=positive, default=[2**i for i in range(3, 13)], help="N (default: 8 … 4096)")
    add("--dims", nargs="+", type=positive, default=[32, 64, 139], help="D = M of a head (default: 32 64 139)")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES), help="(default: both)")
    add("--masks", nargs="+", choices=MASKS, default=list(MASKS), help="key padding mask (default: both)")
    add("--causal", action="store_true", help="every query reads the keys up to its own only")
    add("--heads", type=positive, default=2, help="H (default: 2, the paper's)")
    add("--tokens", type=positive, default=4096, help="B·N: the batch is this over N, at least 1 (default: 4096)")
    add("--momentum", type=float, default=0.6, help="β (default: 0.6)")
    add("--step-size", type=float, default=1.0, help="γ (default: 1)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    add("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default="float32", help="of q, k, v")
    add("--threads", type=positive, help="CPU threads (default: torch's)")
    add("--seconds", type=positive_seconds, default=1.2, help="time for each line of a table (default: 1.2)")
    add("--allocator", choices=["keep", "system"], default="keep", help="on a CPU: keep freed memory, or as it comes")
    add_output_folder(parser)
    add("--quick", action="store_true", help="three short lengths, one D, little time: shows that it works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.lengths, options.dims, options.tokens, options.seconds = [8, 32, 128], [16], 256, 0.01
    for name in ("kinds", "lengths", "dims", "passes", "masks"):
        setattr(options, name, list(dict.fromkeys(getattr(options, name))))
    options.lengths.sort()
    try:
        ops.momentum_attention(*[torch.ones(1, 1, 1, 1)] * 3, momentum=options.momentum, step_size=options.step_size)
    except ValueError as error:
        parser.error(str(error))
    check_place(parser, options)
    return options


def main() -> None:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = options.device.type == "cpu" and options.allocator == "keep" and keep_freed_memory()
    numbers = {"momentum": options.momentum, "step_size": options.step_size}
    machine = hardware(options.device)
    setting = f"{machine['device']}, {machine['threads']} threads, {options.dtype}, H = {options.heads}"
    print(f"{setting}, B·N = {options.tokens}, freed memory {'kept' if kept else 'as it comes'}")
    load_before = os.getloadavg()
    if options.device.type == "cpu" and load_before[0] > 0.5:
        print(f"load average {load_before[0]:.1f} at the start: others are using this machine, times will be noisy")
    times = run_times(options, numbers)
    memory = run_memory(options, numbers)
    print_memory(memory)
    print_extremes(times)
    record = {
        **run_record(sys.argv),
        "hardware": machine,
        "dtype": options.dtype,
        "heads": options.heads,
        "tokens": options.tokens,
        "causal": options.causal,
        **numbers,
        "freed_memory_kept": kept,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "times": times,
        "memory": memory,
    }
    path = options.out / ("causal_attention.json" if options.causal else "attention.json")
    write(record, path, plot)


if __name__ == "__main__":
    main()
