"""How fast models of every kind draw images and what they keep while they do: generate_images.py --benchmark.

Models of the presets' size with random weights draw some values in a row, for each image of a batch, at the same places of
the image: the middles of its equal parts. A place is reached by reading one image's random values, of which the batch gets
copies. The rows take turns at every value, so that a busy machine slows all alike. `softmax without cache` reads all values
again for each new one: one value a place, a batch of at most 8. Seconds an image are the places' medians times the values of
a part, `extrapolated` unless every value was drawn. Time is the processor's own on one CPU thread, the clock's otherwise.
State: bytes an image that are kept from one value to the next. Peak: the most that torch's allocator held during a step, at
the last place, beyond what was held before.
"""

import argparse
import os
import sys
import time
from argparse import Namespace
from statistics import median
from typing import Any

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY
from torch import Tensor

from common.image_sampling import RereadingReader, SteppingReader, with_start
from common.measuring import keep_freed_memory, peak_bytes, synchronise
from common.nat_benchmarks import ROWS
from common.run_record import hardware, run_record
from common.whole_file import write_json
from momentum_fairseq.models.causal_decoder import STATE
from momentum_fairseq.models.momentum_lm import MomentumLmModel
from momentum_fairseq.ops.logistic_mixture import sample_logistic_mixture
from momentum_fairseq.tasks.image_generation import IMAGE_SETS, ImageGenerationConfig, ImageGenerationTask

UNCACHED, MOST_UNCACHED = "softmax without cache", 8
SIZES = ("layers", "embed_dim", "ffn_dim", "heads")


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("benchmark")
    group.add_argument("--benchmark", nargs="+", choices=list(IMAGE_SETS), help="measure at these images' sizes")
    group.add_argument("--batches", type=int, nargs="+", default=[8], help="images at a time (default: 8)")
    group.add_argument("--places", type=int, default=8, help="parts of the image in the middle of which to measure (8)")
    group.add_argument("--values", type=int, default=12, help="values in a row that are drawn at a place (12)")
    for size in SIZES:
        group.add_argument(f"--{size.replace('_', '-')}", type=int, help="(default: the preset's)")


def run_benchmark(options: Namespace, device: torch.device) -> None:
    """Measure, print tables, write the JSON."""
    kept = device.type == "cpu" and keep_freed_memory()
    for name in ("places", "values", *SIZES):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            sys.exit(f"error: --{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    results = []
    for images in options.benchmark:
        for batch in options.batches:
            results.append(measure(options, images, batch, device))
            print_table(results[-1])
    record = {**run_record(sys.argv), "hardware": hardware(device), "freed_memory_kept": kept, "load_average": os.getloadavg()}
    write_json(options.out, {**record, "results": results})
    print(f"\nwritten: {options.out}")


def make_model(options: Namespace, images: str, row: str, task: ImageGenerationTask, device: torch.device) -> MomentumLmModel:
    """Random weights, the same for every row."""
    torch.manual_seed(1)
    sizes = {size: getattr(options, size) for size in SIZES if getattr(options, size) is not None}
    cfg = Namespace(**ROWS[row], **sizes, max_source_positions=task.pixels, max_target_positions=task.pixels)
    ARCH_CONFIG_REGISTRY[f"momentum_lm_{images}"](cfg)
    with torch.inference_mode(False):  # weights made in inference mode don't say when they change, and can't be packed
        return MomentumLmModel(cfg, task.dictionary, task.dictionary).to(device).eval()


class Drawing:
    """A row of the table: a batch of images at some place, and what drawing on takes."""

    def __init__(self, model: MomentumLmModel, task: ImageGenerationTask, batch: int, *, cached: bool) -> None:
        self.model, self.batch, self.cached = model, batch if cached else min(batch, MOST_UNCACHED), cached
        self.reader = (SteppingReader if cached else RereadingReader)(model, task)
        self.device = model.decoder.embedding.weight.device
        self.generator = torch.Generator(self.device).manual_seed(1)

    def go_to(self, known: Tensor) -> None:
        """The values of one image `[1,P]` have been read, those of every other image of the batch are the same."""
        if self.cached:
            self.parameters = self.reader.start(known).expand(self.batch, -1)
            rows = torch.zeros(self.batch, dtype=torch.long, device=self.device)
            self.model.decoder.reorder_incremental_state(self.reader.state, rows)
        else:
            self.parameters = self.reader.start(known[:, :1]).expand(self.batch, -1)
            self.reader.tokens = with_start(known, self.reader.task).expand(self.batch, -1)

    def step(self) -> None:
        """Draw a value of each image and read it."""
        self.parameters = self.reader.step(sample_logistic_mixture(self.parameters, self.generator))

    def timed_step(self) -> float:
        """Milliseconds of a step."""
        one_thread = self.device.type == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if one_thread else time.perf_counter
        synchronise(self.device)
        start = clock()
        self.step()
        synchronise(self.device)
        return 1e3 * (clock() - start)

    def state_bytes(self) -> int:
        """What is kept of an image."""
        if not self.cached:
            return self.reader.tokens.element_size() * self.reader.tokens.shape[1]
        layers = self.model.decoder.get_incremental_state(self.reader.state, STATE).layers
        return sum(x.untyped_storage().nbytes() for layer in layers for x in layer.words if isinstance(x, Tensor)) // self.batch


@torch.inference_mode()
def measure(options: Namespace, images: str, batch: int, device: torch.device) -> dict[str, Any]:
    """All rows at one size of image and batch."""
    task = ImageGenerationTask(ImageGenerationConfig(images=images))
    models = {row: make_model(options, images, row, task, device) for row in ROWS}
    drawings = {UNCACHED: Drawing(models["softmax"], task, batch, cached=False)}
    drawings |= {row: Drawing(model, task, batch, cached=True) for row, model in models.items()}
    values = min(options.values, task.pixels // options.places)
    if not values:
        sys.exit(f"error: --places {options.places}: an image of {images} has {task.pixels} values only")
    part = task.pixels // options.places
    places = [i * part + (part - values) // 2 for i in range(options.places)]
    known = torch.randint(0, 256, (1, task.pixels), generator=torch.Generator().manual_seed(2)).to(device)
    times, state = draw_at(places, values, drawings, known)
    rows = [
        {
            "row": row,
            "batch": drawing.batch,
            "images_per_second": images_per_second(times[row], drawing.batch, task.pixels),
            "extrapolated": not drawing.cached or values * options.places < task.pixels,
            "over_linear": over_linear(times, row),
            "milliseconds": [round(median(found), 3) for found in times[row]],
            "state_bytes": state[row],
            "peak_bytes": peak_bytes(drawing.step, device),
        }
        for row, drawing in drawings.items()
    ]
    sizes = {size: getattr(models["linear"].cfg, size) for size in SIZES}
    return {"images": images, "pixels": task.pixels, "places": places, "values": values, "sizes": sizes, "rows": rows}


def draw_at(
    places: list[int], values: int, drawings: dict[str, Drawing], known: Tensor
) -> tuple[dict[str, list[list[float]]], dict[str, list[int]]]:
    """Milliseconds of each value that each row draws at each place, in turns, and the bytes that it keeps of an image there."""
    times: dict[str, list[list[float]]] = {row: [] for row in drawings}
    state: dict[str, list[int]] = {row: [] for row in drawings}
    for place in places:
        for row, drawing in drawings.items():
            drawing.go_to(known[:, :place])
            state[row].append(drawing.state_bytes())
            times[row].append([])
        order = list(drawings)
        for turn in range(values + 1):
            for row in order:
                if drawings[row].cached or turn == 1:
                    milliseconds = drawings[row].timed_step()
                    if turn:  # the first one warms up
                        times[row][-1].append(milliseconds)
            order.append(order.pop(0))
    return times, state


def images_per_second(times: list[list[float]], batch: int, pixels: int) -> float:
    seconds = sum(median(found) for found in times) / 1e3 / len(times) * pixels
    return float(f"{batch / seconds:.4g}")


def over_linear(times: dict[str, list[list[float]]], row: str) -> float | None:
    """Images a second over those of linear attention: the median over turns; None where turns were not shared."""
    pairs = [(a, b) for own, linear in zip(times[row], times["linear"], strict=True) for a, b in zip(own, linear, strict=False)]
    return None if row == UNCACHED else round(median(linear / own for own, linear in pairs), 3)


def print_table(result: dict[str, Any]) -> None:
    print(f"\n{result['images']}, {result['pixels']} values; ms a step at value {result['places'][0]} and {result['places'][-1]}")
    print(f"{'':22} batch     images/s  × linear  × uncached    ms first    last   KB an image, first and last    peak MB")
    uncached = result["rows"][0]["images_per_second"]
    for row in result["rows"]:
        ratio = float("nan") if row["over_linear"] is None else row["over_linear"]
        speed = f"{row['images_per_second']:13.5g} {ratio:9.3f} {row['images_per_second'] / uncached:11.1f}"
        state = "".join(f"{row['state_bytes'][i] / 1e3:15.1f}" for i in (0, -1))
        steps = f"{row['milliseconds'][0]:11.2f} {row['milliseconds'][-1]:7.2f}"
        print(f"{row['row']:22} {row['batch']:5}{speed} {steps}{state}{row['peak_bytes'] / 1e6:11.1f}", flush=True)
