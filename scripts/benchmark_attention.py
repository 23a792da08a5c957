"""Time and peak memory of the attention kinds over lengths and dimensions, side by side in one run.

  python scripts/benchmark_attention.py                 # 5 minutes on 2 cores; with --quick some seconds, to see it work
  python scripts/benchmark_attention.py --causal --lengths 64 128 256 512 1024 2048 4096 8192 --dims 32 64 --masks none
  python scripts/benchmark_attention.py --device cuda --dtype bfloat16 --tokens 65536

Time: all kinds get the same q, k, v [B,H,N,D], B·N constant, without and with a key padding mask. The kinds take turns, call by
call; ratios are to softmax, the median over the turns of the ratio within a turn. q and k stand for φ(q) and φ(k), except in
`momentum+features`, where computing φ from unmapped q and k is timed with it. Memory: the most that torch's allocator held for
one sentence beyond the inputs. Prints a table, writes attention.json and attention.png, or
causal_attention.json and .png, into --out.
"""

import argparse
import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from panels import write
from plot_attention import plot
from run_record import ROOT, hardware, run_record
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from momentum_fairseq import ops

BASELINE = "softmax"
PASSES = ("forward", "forward+backward")
MASKS = ("none", "padded")
WARM_UP, LEAST_TURNS, MOST_TURNS = 2, 5, 400
# A turn lasts at least this long, by repeating the call: the clock and the caches that another kind has filled then weigh little.
LEAST_TURN_SECONDS = 0.01


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
        "momentum+features": lambda q, k, v, mask, numbers: momentum(phi(q), phi(k), v, key_padding_mask=mask, **numbers),
    }


KINDS = kinds_of(ops.softmax_attention, ops.linear_attention, ops.momentum_attention)
CAUSAL_KINDS = kinds_of(ops.causal_softmax_attention, ops.causal_linear_attention, ops.causal_momentum_attention)


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    direction: Tensor  # what the backward pass starts from


def make_inputs(options: argparse.Namespace, batch: int, length: int, dim: int, mask: str, pass_: str) -> Inputs:
    """Positive q and k; the mask pads each sentence but the first by up to a quarter."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, options.heads, length, dim)
    q, k, v, direction = (torch.randn(shape, generator=generator) for _ in range(4))
    tensors = [ops.elu_plus_one(q), ops.elu_plus_one(k), v]
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


def seconds_per_call(call: Callable[[], Any], repeats: int, synchronise: Callable[[], None]) -> float:
    synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise()
    return (time.perf_counter() - start) / repeats


def time_side_by_side(
    calls: dict[str, Callable[[], Any]],
    seconds: float,
    synchronise: Callable[[], None],
    least_turn_seconds: float = LEAST_TURN_SECONDS,
) -> dict[str, dict[str, float]]:
    """Median, minimum and interquartile range in ms of calls that take turns, and their ratios to the baseline."""
    repeats = {}
    for kind, call in calls.items():
        warm = min(seconds_per_call(call, 1, synchronise) for _ in range(WARM_UP))
        repeats[kind] = max(1, round(least_turn_seconds / warm))
    times: dict[str, list[float]] = {kind: [] for kind in calls}
    end = time.perf_counter() + seconds
    order = list(calls)
    for turn in range(MOST_TURNS):
        if turn >= LEAST_TURNS and time.perf_counter() > end:
            break
        for kind in order:
            times[kind].append(1e3 * seconds_per_call(calls[kind], repeats[kind], synchronise))
        order.append(order.pop(0))
    return {kind: summary(times[kind], times.get(BASELINE)) for kind in calls}


def summary(times: list[float], baseline: list[float] | None) -> dict[str, float]:
    quarter, median, three_quarters = statistics.quantiles(times, n=4, method="inclusive")
    result = {"median_ms": median, "min_ms": min(times), "iqr_ms": three_quarters - quarter, "turns": len(times)}
    if baseline is not None:
        pairs = zip(times, baseline, strict=True)
        result["ratio"] = statistics.median(mine / softmax for mine, softmax in pairs)
        result["min_ratio"] = min(times) / min(baseline)
    return result


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most that torch's allocator held during the call beyond what it held before."""
    call()  # what is kept from a first call on is not the call's own
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def r_squared(x: list[int], y: list[int]) -> float | None:
    """How much of y a straight line in x explains; None for fewer than three points."""
    if len(x) < 3 or len(set(y)) == 1:
        return None
    return statistics.correlation(x, y) ** 2


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory, as a GPU's caching allocator does; False where it can't be told to.

    By default it may give memory back at each call and fault it in anew, page by page, in some runs and not in others.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # glibc's M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**30))


def run_times(options: argparse.Namespace, numbers: dict[str, float]) -> list[dict[str, Any]]:
    synchronise = partial(torch.cuda.synchronize, options.device) if options.device.type == "cuda" else lambda: None
    attentions, rows = CAUSAL_KINDS if options.causal else KINDS, []
    for pass_ in options.passes:
        for mask in options.masks:
            for dim in options.dims:
                print(f"\n{pass_}, D = {dim}, mask: {mask}\n{'N':>6} {'B':>5}{heading(options.kinds)}")
                for length in options.lengths:
                    batch = max(1, options.tokens // length)
                    inputs = make_inputs(options, batch, length, dim, mask, pass_)
                    calls = {kind: make_call(attentions[kind], inputs, pass_, numbers) for kind in options.kinds}
                    results = time_side_by_side(calls, options.seconds, synchronise)
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
                    inputs = make_inputs(options, 1, length, dim, "none", pass_)
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


def positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def positive_seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return number


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
    add("--out", type=Path, default=ROOT / "results/scratch", help="folder to write into (default: results/scratch)")
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


def check_place(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Make the device, the dtype and the folder to write into of what --device, --dtype and --out name, or end with a message."""
    try:
        options.device = torch.device(options.device)
        torch.zeros(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {options.device}: {str(error).splitlines()[0]}")
    if options.device.type not in ("cpu", "cuda"):
        parser.error(f"--device {options.device}: peak memory is measured on cpu and cuda only")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}")
    options.torch_dtype = getattr(torch, options.dtype)


def main() -> None:
    options = parse_arguments()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints two lines a start otherwise
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
