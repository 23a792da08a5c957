"""Causal momentum and linear attention beside other libraries, forward and with backward, in one run.

  python scripts/benchmark_kernels.py                  # on a GPU: large shapes in bfloat16; else N = 64 … 8192 in float32
  python scripts/benchmark_kernels.py --quick          # some seconds, to see it work

The kinds take turns of 10 ms; ratios are to softmax, the median over the turns of the ratio within a turn. q and k stand for φ(q)
and φ(k). Each library gets its own axis order. The floor is the time that the tensors alone take to be read and written, at
the speed at which this device copies memory in the same run. Shapes marked `graph` are timed within a CUDA graph too. Peers:
torch's softmax, flash-linear-attention, fast-transformers, and our forms in torch's operations; what isn't installed is named.
Prints a table, writes kernels.json into --out.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from common.checked_options import add_output_folder, positive, positive_seconds
from common.measuring import keep_freed_memory, seconds_per_call, time_side_by_side
from common.run_record import hardware, run_record
from common.whole_file import write_json
from torch import Tensor

from momentum_fairseq import ops
from momentum_fairseq.ops.kernel_choice import VARIABLE, kernel_for

PASSES = ("forward", "forward+backward")
TENSORS_MOVED = {"forward": 4, "forward+backward": 12}  # q, k, v, o; with q, k, v, o, do, dq, dk, dv again
COPIED_BYTES = {"cuda": 2**30, "cpu": 2**27}


class Shape(NamedTuple):
    """`[B,N,H,D]`, whether to time it within a CUDA graph too, and the times in ms that we aim at on an H100."""

    batch: int
    length: int
    heads: int
    dim: int
    graph: bool = False
    goals: dict[str, float] = {}

    def name(self) -> str:
        return f"({self.batch}, {self.length}, {self.heads}, {self.dim})"


GPU_SHAPES = [
    Shape(1, 8192, 96, 128, goals={"forward": 0.45, "forward+backward": 1.5}),
    Shape(4, 4096, 64, 128, goals={"forward": 0.60, "forward+backward": 2.0}),
    Shape(8, 1024, 8, 64, graph=True, goals={"forward, graph": 0.05}),
]
CPU_SHAPES = [Shape(max(1, 4096 // 2**i), 2**i, 2, dim) for dim in (32, 64) for i in range(6, 14)]
NEEDED = ("softmax", "linear", "momentum")
Kind = Callable[[Tensor, Tensor, Tensor], Tensor]


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Our ops computed by the implementation of that name; "" lets them choose."""
    if not name:
        yield
        return
    before = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        os.environ[VARIABLE] = before


def ours(kind: str, name: str, momentum: float) -> Kind:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with kernel(name):
            if kind == "linear":
                return ops.causal_linear_attention(q, k, v)
            return ops.causal_momentum_attention(q, k, v, momentum=momentum, step_size=1.0)

    return attention


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def flash_linear_attention(momentum: float) -> dict[str, Kind]:
    """Its linear attention; and momentum attention from two of its gated products, which loses digits as β → 1."""
    linear = importlib.import_module("fla.ops.linear_attn").chunk_linear_attn
    gated = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla

    def two_states(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        decay = torch.full((q.shape[2],), momentum, device=q.device).log()
        plain, decayed = gated(q, k, v, scale=1.0)[0], gated(q, k, v, g_gamma=decay, scale=1.0)[0]
        normaliser = (q * k.float().cumsum(1).to(q.dtype)).sum(-1, keepdim=True)
        return (plain - momentum * decayed) / ((1 - momentum) * normaliser)

    return {"fla linear": lambda q, k, v: linear(q, k, v, scale=1.0)[0], "fla gated, twice": two_states}


def fast_transformers(momentum: float) -> dict[str, Kind]:
    product = importlib.import_module("fast_transformers.causal_product").causal_dot_product

    def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.float(), k.float(), v.float()
        return product(q, k, v) / ((q * k.cumsum(2)).sum(-1, keepdim=True) + 1e-6)

    return {"fast-transformers linear": linear}


def kinds_of(device: torch.device, momentum: float, libraries: bool) -> tuple[dict[str, Kind], dict[str, str]]:
    """What is compared, softmax first; and why others are missing."""
    kinds = {"softmax": softmax, "linear": ours("linear", "", momentum), "momentum": ours("momentum", "", momentum)}
    if device.type == "cuda":
        kinds |= {"linear, torch": ours("linear", "torch", momentum), "momentum, torch": ours("momentum", "torch", momentum)}
    missing = {}
    peers = {"flash-linear-attention": flash_linear_attention, "fast-transformers": fast_transformers}
    for name, peer in peers.items():
        if not libraries:
            missing[name] = "left out by --without-libraries"
            continue
        if name == "flash-linear-attention" and device.type != "cuda":
            missing[name] = "runs on a GPU only"
            continue
        try:
            kinds |= peer(momentum)
        except Exception as error:  # a library that is there may still not go with this torch or triton
            missing[name] = first_line(error)
    return kinds, missing


def first_line(error: Exception) -> str:
    """What an error is and the first line of what it says."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def make_calls(
    kinds: dict[str, Kind], shape: Shape, pass_: str, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[], Any]]:
    """One forward, or forward and backward, of each kind on the same numbers, positive q and k."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.batch, shape.heads, shape.length, shape.dim)
    tensors = [torch.randn(size, generator=generator) for _ in range(4)]
    tensors = [ops.elu_plus_one(tensors[0]), ops.elu_plus_one(tensors[1]), *tensors[2:]]
    tensors = [x.to(device, dtype) for x in tensors]
    by_token = [x.transpose(1, 2).contiguous() for x in tensors]
    calls = {}
    for name, attention in kinds.items():
        *leaves, direction = (x.clone() for x in (by_token if name.startswith("fla") else tensors))
        calls[name] = make_call(attention, [x.requires_grad_(pass_ != "forward") for x in leaves], direction, pass_)
    return calls


def make_call(attention: Kind, leaves: list[Tensor], direction: Tensor, pass_: str) -> Callable[[], Any]:
    def forward() -> Tensor:
        with torch.no_grad():
            return attention(*leaves)

    def forward_and_backward() -> tuple[Tensor, ...]:
        out = attention(*leaves)
        return torch.autograd.grad(out, leaves, direction.to(out.dtype))

    return forward if pass_ == "forward" else forward_and_backward


def graph_of(call: Callable[[], Any]) -> Callable[[], None]:
    """The call recorded once as a CUDA graph, to be replayed."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def graphs_of(calls: dict[str, Callable[[], Any]], failures: dict[str, str], place: str) -> dict[str, Callable[[], None]]:
    """Those of our calls and softmax that can be recorded, what can't be noted; none without those that ratios are to."""
    graphs = {}
    for name, call in calls.items():
        if name.startswith(("fla", "fast")):
            continue
        try:
            graphs[name] = graph_of(call)
        except RuntimeError as error:
            note(failures, f"{name}, {place}", error)
    return graphs if {"softmax", "linear"} <= graphs.keys() else {}


def bytes_per_second(device: torch.device) -> float:
    """Bytes read and written by a copy of much memory."""
    source = torch.ones(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / min(seconds_per_call(lambda: target.copy_(source), 3, device) for _ in range(5))


def without_failing(calls: dict[str, Callable[[], Any]], failures: dict[str, str], place: str) -> dict[str, Callable[[], Any]]:
    """Those that run; one that can't take a shape is noted, and the others are compared all the same."""
    running = {}
    for name, call in calls.items():
        try:
            call()
            running[name] = call
        except Exception as error:  # whatever a library or a compiler raises
            note(failures, f"{name}, {place}", error)
    return running


def note(failures: dict[str, str], place: str, error: Exception) -> None:
    """Keep what failed where, and say it."""
    failures[place] = first_line(error)
    print(f"failed: {place} ({failures[place]})", flush=True)


def rows_of(
    place: dict[str, Any], results: dict[str, dict[str, float]], floor_ms: float, goal_ms: float | None
) -> list[dict[str, Any]]:
    rows = []
    for name, result in results.items():
        share = floor_ms / result["median_ms"]
        rows.append({**place, "kind": name, **result, "floor_ms": floor_ms, "share_of_floor_speed": share})
        if name == "momentum":
            rows[-1]["goal_ms"] = goal_ms
            if "linear" in results:
                rows[-1]["ratio_to_linear"] = result["median_ms"] / results["linear"]["median_ms"]
        ratio = f"{result['ratio']:10.3f} × softmax" if "ratio" in result else ""
        print(f"  {name:26}{result['median_ms']:11.4f} ms{ratio}{100 * share:8.1f} % of the floor's speed", flush=True)
    return rows


def run(options: argparse.Namespace, kinds: dict[str, Kind], failures: dict[str, str]) -> tuple[list[dict[str, Any]], float]:
    device = options.device
    speed = bytes_per_second(device)
    print(f"memory is copied at {speed / 1e9:.0f} GB/s")
    rows = []
    for shape in options.shapes:
        for pass_ in options.passes:
            moved = TENSORS_MOVED[pass_] * shape.batch * shape.length * shape.heads * shape.dim * options.torch_dtype.itemsize
            calls = make_calls(kinds, shape, pass_, device, options.torch_dtype)
            calls = without_failing(calls, failures, f"{shape.name()}, {pass_}")
            variants = {pass_: calls}
            if shape.graph and pass_ == "forward" and device.type == "cuda":
                graphs = graphs_of(calls, failures, f"{shape.name()}, graph")
                variants |= {f"{pass_}, graph": graphs} if graphs else {}
            for variant, variant_calls in variants.items():
                print(f"\n(B, N, H, D) = {shape.name()}, {variant}")
                results = time_side_by_side(variant_calls, options.seconds, device)
                place = {"pass": variant, "batch": shape.batch, "length": shape.length, "heads": shape.heads, "dim": shape.dim}
                rows += rows_of(place, results, 1e3 * moved / speed, shape.goals.get(variant))
    return rows, speed


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--dtype", choices=["float32", "bfloat16", "float16"], help="(default: bfloat16 on a GPU, float32 on a CPU)")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES), help="(default: both)")
    add("--lengths", nargs="+", type=positive, help="only the shapes of these N")
    add("--momentum", type=float, default=0.6, help="β (default: 0.6)")
    add("--threads", type=positive, help="CPU threads (default: torch's)")
    add("--without-libraries", dest="libraries", action="store_false", help="leave out those that search for tiles for minutes")
    add("--seconds", type=positive_seconds, default=1.0, help="time for each line of the table (default: 1)")
    add_output_folder(parser)
    add("--quick", action="store_true", help="two short shapes, little time: shows that it works")
    options = parser.parse_args(arguments)
    if not 0 < options.momentum < 1:
        parser.error(f"--momentum {options.momentum}: must be between 0 and 1")
    options.device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.device.type not in COPIED_BYTES or (options.device.type == "cuda" and not torch.cuda.is_available()):
        parser.error(f"--device {options.device}: must be cpu, or cuda where torch finds a GPU")
    options.torch_dtype = getattr(torch, options.dtype or ("bfloat16" if options.device.type == "cuda" else "float32"))
    options.shapes = GPU_SHAPES if options.device.type == "cuda" else CPU_SHAPES
    if options.lengths:
        options.shapes = [shape for shape in options.shapes if shape.length in options.lengths]
    if options.quick:
        options.shapes, options.seconds = [Shape(1, 64, 2, 16, graph=True), Shape(1, 100, 2, 16)], 0.01
    if not options.shapes:
        parser.error(f"--lengths {options.lengths}: no shape has one of them")
    return options


def main() -> None:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = options.device.type == "cpu" and keep_freed_memory()
    kinds, missing = kinds_of(options.device, options.momentum, options.libraries)
    probe = torch.empty(1, 1, 1, 64, dtype=options.torch_dtype, device=options.device)
    machine = {**hardware(options.device), "kernel": kernel_for(probe, probe), "dtype": str(options.torch_dtype)[6:]}
    print(f"{machine['device']}, {machine['threads']} threads, {machine['dtype']}, our ops by {machine['kernel']}")
    for name, reason in missing.items():
        print(f"not compared: {name} ({reason})")
    load_before = os.getloadavg()
    failures: dict[str, str] = {}
    rows, speed = run(options, kinds, failures)
    record = {
        **run_record(sys.argv),
        "hardware": machine,
        "momentum": options.momentum,
        "not_compared": missing,
        "failed": failures,
        "freed_memory_kept": kept,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "bytes_copied_per_second": speed,
        "times": rows,
    }
    write_json(options.out / "kernels.json", record)
    print(f"\nwritten: {options.out / 'kernels.json'}")
    # Last, so that the times of the others aren't lost.
    if any(name.startswith(tuple(f"{kind}, (" for kind in NEEDED)) for name in failures):
        raise SystemExit("error: not all of softmax, linear and momentum ran; see `failed` above")


if __name__ == "__main__":
    main()
