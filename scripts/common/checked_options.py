"""What command lines share: numbers that are checked, where to run, and where to write, before anything is computed."""

import argparse
import os
from pathlib import Path

import torch

from common.run_record import ROOT


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


def output_file(text: str) -> Path:
    path = Path(text)
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a device or pipe, which would be replaced"
        raise argparse.ArgumentTypeError(f"{text} is {kind}; name a file")
    _check_writable(text, path.parent)
    return path


def output_folder(text: str) -> Path:
    _check_writable(text, Path(text))
    return Path(text)


def _check_writable(text: str, folder: Path) -> None:
    # By os.path: pathlib raises where it may not look.
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    if not os.path.isdir(there):
        raise argparse.ArgumentTypeError(f"{text} can't be written: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} can't be written: no permission to write in {there}")


def add_output_folder(parser: argparse.ArgumentParser) -> None:
    # A default that is text is checked, too.
    place = {"type": output_folder, "default": str(ROOT / "results/scratch")}
    parser.add_argument("--out", **place, help="folder to write into (default: results/scratch)")


def check_device(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Make the device of what --device names, or end with a message."""
    try:
        options.device = torch.device(options.device)
        torch.zeros(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {options.device}: {str(error).splitlines()[0]}")


def check_place(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Make the device, whose memory can be measured, and the dtype of what --device and --dtype name, or end with a message."""
    check_device(parser, options)
    if options.device.type not in ("cpu", "cuda"):
        parser.error(f"--device {options.device}: peak memory is measured on cpu and cuda only")
    options.torch_dtype = getattr(torch, options.dtype)
