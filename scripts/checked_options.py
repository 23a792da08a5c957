"""What the benchmarks' command lines share: numbers that are checked, and where to run and to write."""

import argparse

import torch


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
