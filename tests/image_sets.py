"""Small sets of images on disk, in the published layouts, for the tests of the task and of the scripts around it."""

import struct
from pathlib import Path

import numpy as np


def write_mnist(folder: Path, train: int = 24, test: int = 6) -> Path:
    """A folder of idx files: dark images with a bright square, labels 0 … 9."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for stem, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 20, (count, 28, 28), np.uint8)
        for image, (top, left) in zip(images, random.integers(4, 16, (count, 2)), strict=True):
            image[top : top + 8, left : left + 8] = 250
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{stem}-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder


def write_cifar10(folder: Path, images: int = 3) -> Path:
    """A folder of binary batches of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = random.integers(0, 256, (images, 1 + 3072), np.uint8)
        records[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder
