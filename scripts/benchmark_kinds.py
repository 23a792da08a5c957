"""Speed and memory of every attention kind at long lengths, side by side in one run.

  python scripts/benchmark_kinds.py --threads 2                    # 10 minutes on 2 cores; with --quick some seconds
  python scripts/benchmark_kinds.py --device cuda --dtype bfloat16 --lengths 1024 2048 4096 8192 16384 32768

One sequence, forward and backward, at Long Range Arena's sizes. `kind` is what a kind does with projected queries, keys and
values, feature maps included; `attention` is self-attention with its projections; `stack` is layers with feed-forwards. The kinds
take turns; what would take too long or not fit into memory, if it grew with the square of the length, is left out and named.
Prints a table, writes kinds.json and kinds.png into --out.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common.checked_options import add_output_folder, check_place, positive, positive_seconds
from common.measuring import BASELINE, keep_freed_memory, peak_bytes, r_squared, time_side_by_side
from common.panels import write
from common.run_record import hardware, run_record
from common.user_dir import add_user_dir
from plot_kinds import plot
from torch import Tensor, nn

from momentum_fairseq.modules import ATTENTION_KINDS, AttentionOptions, EncoderLayer, LayerOptions, MultiheadAttention
from momentum_fairseq.modules.attention_kind import AttentionPlace
from momentum_fairseq.modules.transformer_layer import Velocities

PARTS = ("kind", "attention", "stack")
LEAST_TURN_SECONDS = 0.05
TURNS = 7  # the calls of a kind that is measured at all: two to warm up, five for the median


class Stack(nn.Module):
    """Layers with the norm before, without dropout, which takes the same time in every kind."""

    def __init__(self, options: LayerOptions, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(options.at_layer(i, layers)) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        velocities = Velocities()
        for layer in self.layers:
            x = layer(x, None, velocities)
        return x


def attention_of(options: LayerOptions) -> MultiheadAttention:
    """One self-attention."""
    return MultiheadAttention(options.embed_dim, options.num_heads, options.attention, self_attention=True)


def make_call(options: argparse.Namespace, part: str, kind: str, length: int) -> Callable[[], Any]:
    """One forward and backward of the kind, on inputs that take gradients as a layer's do."""
    torch.manual_seed(0)
    attention = AttentionOptions(kind=kind, place=AttentionPlace(max_length=length))
    sizes = {"embed_dim": options.embed_dim, "ffn_dim": 2 * options.embed_dim, "num_heads": options.heads}
    layer = LayerOptions(**sizes, dropout=0.0, normalize_before=True, feed_forward="residual", attention=attention)
    where = {"device": options.device, "dtype": options.torch_dtype}
    module = (Stack(layer, options.layers) if part == "stack" else attention_of(layer)).to(**where)
    if part == "kind":
        module, shape = module.attention, (1, options.heads, length, options.embed_dim // options.heads)
        inputs = [torch.randn(shape).to(**where).requires_grad_() for _ in range(3)]
        if module.shares_queries_and_keys:
            inputs[1] = inputs[0]
        function = partial(module, *inputs, None)
    else:
        inputs = [torch.randn(1, length, options.embed_dim).to(**where).requires_grad_()]
        function = partial(module, *inputs * (3 if part == "attention" else 1))
    leaves = list({id(leaf): leaf for leaf in (*inputs, *module.parameters())}.values())
    return lambda: torch.autograd.grad(function().sum(), leaves)


def free_bytes(device: torch.device) -> int:
    """Memory that is free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def left_out(options: argparse.Namespace, before: dict[str, Any] | None, length: int) -> str | None:
    """Why a kind isn't measured at a length, from what it took at the one before; None = it is."""
    if before is None:
        return None
    growth = (length / before["length"]) ** 2
    seconds, peak = (growth * before[key] for key in ("median_ms", "peak_bytes"))
    if TURNS * seconds / 1e3 > options.most_seconds:
        return f"{TURNS} calls might take {TURNS * seconds / 1e3:.0f} s, above --most-seconds {options.most_seconds:g}"
    if peak > free_bytes(options.device):
        return f"a call might take {peak / 1e9:.1f} GB, and {free_bytes(options.device) / 1e9:.1f} GB are free"
    return None


def measure(options: argparse.Namespace, part: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each length and kind, and what was left out."""
    rows, skipped, last = [], [], {}
    for length in options.lengths:
        calls = {}
        for kind in options.kinds:
            reason = left_out(options, last.get(kind), length) if kind not in {row["kind"] for row in skipped} else "as before"
            if reason:
                skipped.append({"part": part, "kind": kind, "length": length, "reason": reason})
                print(f"left out: {part} {kind} at N = {length}: {reason}")
            else:
                calls[kind] = make_call(options, part, kind, length)
        if not calls:
            continue
        times = time_side_by_side(calls, options.seconds, options.device, min(LEAST_TURN_SECONDS, options.seconds))
        for kind, call in calls.items():
            speed = {"steps_per_second": 1e3 / times[kind]["median_ms"], "peak_bytes": peak_bytes(call, options.device)}
            last[kind] = {"part": part, "kind": kind, "length": length, **speed, **times[kind]}
            rows.append(last[kind])
        print_length(part, length, [row for row in rows if row["length"] == length])
    return rows, skipped


def print_length(part: str, length: int, rows: list[dict[str, Any]]) -> None:
    print(f"\n{part}, N = {length}\n{'':20}{'ms':>10}{'steps/s':>10}{'speed/' + BASELINE:>15}{'peak MB':>10}")
    for row in rows:
        speed = f"{1 / row['ratio']:.2f}" if "ratio" in row else ""
        peak = row["peak_bytes"] / 1e6
        print(f"{row['kind']:20}{row['median_ms']:10.1f}{row['steps_per_second']:10.2f}{speed:>15}{peak:10.1f}", flush=True)


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each part and kind the R² of a straight line of its peak memory in N, and the time over linear attention's."""
    found = []
    for part, kind in dict.fromkeys((row["part"], row["kind"]) for row in rows):
        own = [row for row in rows if (row["part"], row["kind"]) == (part, kind)]
        fit = r_squared([row["length"] for row in own], [row["peak_bytes"] for row in own])
        found.append({"part": part, "kind": kind, "memory_r_squared": fit})
        text = "" if fit is None else f"  R² of memory in N {fit:.6f}"
        linear = {row["length"]: row["median_ms"] for row in rows if (row["part"], row["kind"]) == (part, "linear")}
        ratios = {row["length"]: row["median_ms"] / linear[row["length"]] for row in own if row["length"] in linear}
        if ratios:
            found[-1]["time_over_linear"] = ratios
            text += f"  time / linear at most {max(ratios.values()):.2f}"
        print(f"{part:10} {kind:20}{text}")
    return found


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_user_dir(parser, "folder of a plug-in that has kinds beside those of momentum_fairseq")
    add("--kinds", nargs="+", metavar="KIND", help="(default: all)")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    add("--lengths", nargs="+", type=positive, default=[2**i for i in range(10, 15)], help="N (default: 1024 … 16384)")
    add("--embed-dim", type=positive, default=64, help="width (default: 64)")
    add("--heads", type=positive, default=2, help="H (default: 2)")
    add("--layers", type=positive, default=2, help="of the stack (default: 2)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of input and parameters")
    add("--threads", type=positive, help="CPU threads (default: torch's)")
    add("--seconds", type=positive_seconds, default=10.0, help="turns for at least so long at each length (default: 10)")
    add("--most-seconds", type=positive_seconds, default=120.0, help="of all calls of a kind at one length (default: 120)")
    add_output_folder(parser)
    add("--quick", action="store_true", help="three short lengths, little time: shows that it works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.lengths, options.seconds = [64, 128, 256], 0.01
    for kind in options.kinds or []:
        if kind not in ATTENTION_KINDS:
            parser.error(f"--kinds {kind}: no such attention kind; choose from {', '.join(ATTENTION_KINDS)}")
    options.kinds = [kind for kind in ATTENTION_KINDS if kind in (options.kinds or ATTENTION_KINDS)]
    options.parts = [part for part in PARTS if part in options.parts]
    options.lengths = sorted(set(options.lengths))
    check_place(parser, options)
    if options.embed_dim % options.heads:
        parser.error(f"--embed-dim {options.embed_dim} is not a multiple of --heads {options.heads}")
    return options


def main() -> None:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = options.device.type == "cpu" and keep_freed_memory()
    load_before = os.getloadavg()
    measured, skipped = [], []
    for part in options.parts:
        rows, without = measure(options, part)
        measured, skipped = measured + rows, skipped + without
    print()
    record = {
        **run_record(sys.argv, options.user_dir),
        "hardware": hardware(options.device),
        "dtype": options.dtype,
        "embed_dim": options.embed_dim,
        "heads": options.heads,
        "layers": options.layers,
        "freed_memory_kept": kept,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "measured": measured,
        "left_out": skipped,
        "summary": summaries(measured),
    }
    write(record, options.out / "kinds.json", plot)


if __name__ == "__main__":
    main()
