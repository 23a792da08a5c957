"""Which tile makes the causal kernels quickest on this GPU: lines for the tables of ops/kernels/causal_setting.py.

  python scripts/tune_kernels.py                   # on a GPU: the shapes of benchmark_kernels.py, momentum, bfloat16
  python scripts/tune_kernels.py --momentum 0.9    # tiles of the kernels with two states; at 0.6 one does
  python scripts/tune_kernels.py --quick           # anywhere, some seconds, to see it work

Every tile of CANDIDATES beside the pinned one, and then the best one beside itself in several numbers of segments; ratios are to
the first that runs: the pinned tile, or the number of segments that the kernels choose. The kernels are compiled before, side by
side in processes of their own. Tiles take turns of 10 ms; medians. A tile that makes NaN or infinity, whose output isn't the
first one's up to rounding, or that doesn't compile, is named and left out. Writes tune_kernels.json into --out.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any
from unittest import mock

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is first imported

from benchmark_kernels import GPU_SHAPES, PASSES, Shape, first_line, make_calls, ours
from common.checked_options import add_output_folder, positive, positive_seconds
from common.end_with_parent import end_with_parent
from common.measuring import synchronise, time_side_by_side
from common.run_record import hardware, run_record
from common.whole_file import write_json

from momentum_fairseq.ops.kernels import causal_setting
from momentum_fairseq.ops.kernels.causal_setting import Tile

CANDIDATES = [
    Tile(64, 32, 4, 3), Tile(64, 32, 4, 2), Tile(64, 32, 4, 3, 168), Tile(64, 32, 8, 3), Tile(64, 32, 8, 3, 128),
    Tile(64, 64, 8, 3), Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(64, 128, 8, 2), Tile(64, 16, 4, 3), Tile(128, 32, 8, 2),
    Tile(32, 64, 4, 3),
]  # fmt: skip
SEGMENTS = (1, 2, 4, 8)
QUICK = [Shape(1, 64, 2, 16)]
LARGEST_DIFFERENCE = 1e-2  # relative RMS of two tiles' bfloat16 outputs
Choice = tuple[Tile, int | None]  # and segments; None = as many as the kernels choose


@contextmanager
def chosen(tile: Tile, segments: int | None) -> Iterator[None]:
    """The kernels launched so, whatever the device and shape."""
    with mock.patch.object(causal_setting, "tile_of", lambda *_: tile):
        if segments is None:
            yield
            return
        with mock.patch.object(causal_setting, "number_of_segments", lambda *_: segments):
            yield


def call_of(shape: Shape, pass_: str, choice: Choice, device: torch.device, momentum: float) -> Callable[[], Any]:
    run = make_calls({"momentum": ours("momentum", "triton", momentum)}, shape, pass_, device, torch.bfloat16)["momentum"]

    def call() -> Any:
        with chosen(*choice):
            return run()

    return call


def compile_choice(shape: Shape, pass_: str, choice: Choice, device: torch.device, momentum: float) -> str | None:
    """Leaves the compiled kernels in Triton's cache; what is wrong with them, or None."""
    try:
        call_of(shape, pass_, choice, device, momentum)()
        synchronise(device)
    except Exception as error:  # whatever the compiler says of a tile, the others are still to be timed
        return first_line(error)
    return None


def compile_all(
    shape: Shape, pass_: str, choices: list[Choice], device: torch.device, momentum: float, processes: int
) -> dict[Choice, str | None]:
    work = partial(compile_choice, shape, pass_, device=device, momentum=momentum)
    if processes == 1:
        return {choice: work(choice) for choice in choices}
    with ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent) as pool:
        return dict(zip(choices, pool.map(work, choices), strict=True))


def difference(output: Any, expected: Any) -> float:
    """Relative RMS, the largest of a tensor or of several."""
    pairs = zip(tensors_of(output), tensors_of(expected), strict=True)
    return max(((a.float() - b.float()).norm() / b.float().norm()).item() for a, b in pairs)


def tensors_of(output: Any) -> Iterable[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else output


def compare(
    shape: Shape, pass_: str, choices: list[Choice], options: argparse.Namespace, faults: dict[str, str]
) -> list[dict[str, Any]]:
    """A row a choice, the quickest first; ratios are to the first choice that runs. None where none does."""
    device, names = options.device, {show(choice): choice for choice in choices}
    wrong = compile_all(shape, pass_, choices, device, options.momentum, options.processes)
    calls: dict[str, Callable[[], Any]] = {}
    first = expected = None
    for name, choice in names.items():
        reason = wrong[choice]
        if reason is None:
            call = call_of(shape, pass_, choice, device, options.momentum)
            output = call()
            if not all(tensor.isfinite().all() for tensor in tensors_of(output)):
                reason = "NaN or infinity in what it computes"
            elif first is not None and not (far := difference(output, expected)) <= LARGEST_DIFFERENCE:
                reason = f"differs by {far:.1e} from the output of {first}"
        if reason is not None:
            faults[f"{shape.name()}, {pass_}, {name}"] = reason
            continue
        calls[name] = call
        if first is None:
            first, expected = name, output
    times = time_side_by_side(calls, options.seconds, device)
    rows = []
    for name, result in sorted(times.items(), key=lambda item: item[1]["median_ms"]):
        ratio = result["median_ms"] / times[first]["median_ms"]
        rows.append({"shape": shape.name(), "pass": pass_, "choice": name, **result, "ratio_to_first": ratio})
        print(f"  {name:44}{result['median_ms']:10.4f} ms{rows[-1]['ratio_to_first']:9.3f} × the first", flush=True)
    return rows


def pinned_tile(device: torch.device, dim: int, momentum: float) -> Tile:
    two = causal_setting.tile_of(device, True, dim, 2)
    steady, _ = causal_setting.one_state(momentum, torch.bfloat16, two.chunk)
    return two if steady is None else causal_setting.tile_of(device, True, dim, 1)


def show(choice: Choice) -> str:
    tile, segments = choice
    return line_of(tile) + ("" if segments is None else f", {segments} segments")


def line_of(tile: Tile) -> str:
    """As it is written in causal_setting.py."""
    return f"Tile({', '.join(str(x) for x in tile if x is not None)})"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=positive_seconds, default=2.0, help="time for all tiles of one shape and pass (2)")
    parser.add_argument("--momentum", type=float, default=0.6, help="β (0.6)")
    parser.add_argument("--processes", type=positive, default=os.cpu_count(), help="that compile side by side (as many as CPUs)")
    add_output_folder(parser)
    parser.add_argument("--quick", action="store_true", help="one short shape, two tiles: shows that it works")
    options = parser.parse_args()
    if not 0 < options.momentum < 1:
        parser.error(f"--momentum {options.momentum}: must be between 0 and 1")
    if not (options.quick or torch.cuda.is_available()):
        parser.error("torch finds no GPU, and the interpreter's times say nothing; --quick shows that it works")
    options.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.shapes, options.tiles = (QUICK, CANDIDATES[:2]) if options.quick else (GPU_SHAPES, CANDIDATES)
    if options.quick:
        options.seconds, options.processes = 0.01, 1
    return options


def main() -> None:
    options = parse_arguments()
    rows, faults, best, none = [], {}, [], []
    for shape in options.shapes:
        pinned = pinned_tile(options.device, shape.dim, options.momentum)
        for pass_ in PASSES:
            print(f"\n(B, N, H, D) = {shape.name()}, {pass_}")
            tiles = dict.fromkeys([pinned, *options.tiles])
            found = compare(shape, pass_, [(tile, None) for tile in tiles], options, faults)
            if not found:
                none.append(f"{shape.name()}, {pass_}")
                continue
            running = {row["choice"] for row in found}
            first = next(tile for tile in tiles if show((tile, None)) in running)
            quickest = next(tile for tile in tiles if show((tile, None)) == found[0]["choice"])
            choices = [(quickest, None), *((quickest, segments) for segments in SEGMENTS[: 2 if options.quick else None])]
            found += compare(shape, pass_, choices, options, faults)
            rows += found
            ratio = f"{found[0]['ratio_to_first']:.3f} × {line_of(first)}"
            best.append(f"{shape.dim}: {line_of(quickest)},  # {shape.name()}, {pass_}: {ratio}")
    for place, fault in faults.items():
        print(f"left out: {place}: {fault}")
    print("\nlines for causal_setting.py:", *best, sep="\n    ")
    record = {**run_record(sys.argv), "hardware": hardware(options.device), "times": rows, "left_out": faults, "best": best}
    write_json(options.out / "tune_kernels.json", record)
    print(f"written: {options.out / 'tune_kernels.json'}")
    if none:
        raise SystemExit(f"error: no tile runs for {'; '.join(none)}; see `left out` above")


if __name__ == "__main__":
    main()
