"""Draw images with a trained model, or measure how fast models of every kind draw.

  python scripts/generate_images.py CHECKPOINT --out picture.png                 # samples
  python scripts/generate_images.py CHECKPOINT --data DATA --out picture.png     # and completions of images of the test set
  python scripts/generate_images.py --benchmark mnist cifar10 --out speed.json   # images/s and memory of six rows, random weights

The picture has rows of eight. First the samples. Then a row for each image to complete: its known part, six completions, and the
image itself; what is not known is black. --known tells how many of its values are known, row by row from the top, the colours of
a pixel one after the other. The same --seed, checkpoint, batch size and device give the same picture. How the benchmark
measures: see common/image_benchmark.py.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common.checked_options import output_file
from common.image_benchmark import add_benchmark_arguments, run_benchmark
from common.image_model import ImageModel, load_image_model
from common.image_sampling import SteppingReader, in_batches, save_picture
from common.user_dir import add_user_dir
from torch import Tensor

COLUMNS = 8
COMPLETIONS = COLUMNS - 2
LARGEST_SCALE = 32  # a row of MNIST is 7,744 dots wide then; the picture is in memory as a whole


def samples(loaded: ImageModel, options: argparse.Namespace, generator: torch.Generator) -> list[np.ndarray]:
    """Rows of images out of nothing."""
    if not options.samples:
        return []
    nothing = torch.empty(options.samples, 0, dtype=torch.uint8, device=generator.device)
    found = pictures(loaded, in_batches(reader(loaded), nothing, loaded.task.pixels, generator, options.batch_size))
    return [found[i : i + COLUMNS] for i in range(0, len(found), COLUMNS)]


def images_to_complete(loaded: ImageModel, options: argparse.Namespace) -> tuple[Tensor, int]:
    """The first images of the test set, as the checkpoint's `--scored-images` picked them, and how many values are known of each.

    Raises:
        ValueError: fewer images than are to be completed, or more values known than an image has.
    """
    task = loaded.task
    known = task.pixels // 2 if options.known is None else options.known
    if known > task.pixels:
        raise ValueError(f"--known {known}: the prompt is longer than the image, which has {task.pixels} values")
    task.load_dataset("test")
    images = task.dataset("test").pixels
    if len(images) < options.completions:
        raise ValueError(f"--completions {options.completions}: the test set has {len(images)} images, as the checkpoint cuts it")
    return torch.from_numpy(images[: options.completions]), known


def completions(
    loaded: ImageModel, images: Tensor, known: int, options: argparse.Namespace, generator: torch.Generator
) -> list[np.ndarray]:
    """A row for each of the images `[n,N]`."""
    images = images.to(generator.device)
    prompts = images[:, :known].repeat_interleave(COMPLETIONS, dim=0)
    drawn = in_batches(reader(loaded), prompts, loaded.task.pixels, generator, options.batch_size)
    occluded = images.clone()
    occluded[:, known:] = 0
    rows = torch.cat([occluded[:, None], drawn.unflatten(0, (-1, COMPLETIONS)), images[:, None]], dim=1)
    return [pictures(loaded, row) for row in rows]


def reader(loaded: ImageModel) -> SteppingReader:
    return SteppingReader(loaded.model, loaded.task)


def pictures(loaded: ImageModel, values: Tensor) -> np.ndarray:
    """uint8 `[n,N]` → `[n,height,width,colours]`."""
    return values.reshape(-1, *loaded.task.shape).cpu().numpy()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="?", help="of a training with the task image_generation")
    add("--out", type=output_file, required=True, help="PNG to write, or JSON of --benchmark")
    add("--data", type=Path, help="folder of the images, for completions")
    add("--samples", type=int, default=32, help="images out of nothing (default: 32)")
    add("--completions", type=int, help="images to complete; needs --data (default: 4 with it)")
    add("--known", type=int, help="values that are known of an image to complete; needs --data (default: half of them)")
    add("--seed", type=int, default=1, help="what is drawn follows from it (default: 1)")
    add("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    add("--scale", type=int, default=2, help=f"dots a pixel, at most {LARGEST_SCALE} (default: 2)")
    add("--skip-checksums", action="store_true", help="take images that aren't the published ones")
    add("--cpu", action="store_true", help="leave a GPU aside")
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add_user_dir(parser)
    add_benchmark_arguments(parser)
    options = parser.parse_args(arguments)
    least = {"samples": 0, "completions": 0, "known": 0, "seed": 0, "batch_size": 1, "scale": 1, "threads": 1}
    most = {"seed": torch.iinfo(torch.uint64).max, "scale": LARGEST_SCALE}
    for name, number in least.items():
        value = getattr(options, name)
        if value is not None and value < number:
            parser.error(f"--{name.replace('_', '-')} must be at least {number}, got {value}")
        if name in most and value > most[name]:
            parser.error(f"--{name.replace('_', '-')} must be at most {most[name]}, got {value}")
    if (options.checkpoint is None) == (options.benchmark is None):
        parser.error("give a checkpoint to draw with, or --benchmark")
    if options.data is None:
        for name, given in (("completions", bool(options.completions)), ("known", options.known is not None)):
            if given:
                parser.error(f"--{name} needs --data, the folder with the images to complete")
    if options.known is not None and options.completions == 0:
        parser.error(f"--known {options.known}: there is nothing to complete with --completions 0")
    if options.completions is None:
        options.completions = 4 if options.data else 0
    if options.checkpoint and not options.samples and not options.completions:
        parser.error("nothing to draw: --samples 0 and no --data with --completions")
    return options


def main() -> None:
    options = parse_arguments()
    logging.disable(logging.INFO)  # fairseq's own progress
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    if options.benchmark:
        return run_benchmark(options, device)
    overrides = {"data": str(options.data)} if options.data else {}
    overrides |= {"skip_checksums": True} if options.skip_checksums else {}
    loaded = load_image_model(options.checkpoint, device, overrides)
    generator, start = torch.Generator(device).manual_seed(options.seed), time.perf_counter()
    try:
        given = images_to_complete(loaded, options) if options.completions else None
        rows = samples(loaded, options, generator)
        if given:
            rows += completions(loaded, *given, options, generator)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    save_picture(rows, options.out, options.scale)
    seconds = time.perf_counter() - start
    print(f"{options.samples} samples, {len(rows)} rows in {seconds:.1f} s\nwritten: {options.out}")


if __name__ == "__main__":
    main()
