"""What every reader of images refuses, in one place."""

import hashlib
from pathlib import Path

import numpy as np

SPLITS = ("train", "test")
CLASSES = 10


def check_split(split: str) -> None:
    """Raise ValueError for a split that no published data set has."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")


def check_md5(path: Path, content: bytes, published: str) -> None:
    """Raise ValueError unless the content is the published one.

    MD5 as the publishers give it: it finds damage and mix-ups, not forgery.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != published:
        raise ValueError(
            f"{path}: the MD5 checksum is {found}, that of the published data is {published}; download it again, or, if this "
            f"is other data on purpose, leave checksums aside (verify=False; --skip-checksums)"
        )


def check_labels(path: Path, labels: np.ndarray, images: int) -> None:
    """Raise ValueError unless there is a label in 0 … 9 for every image."""
    if labels.shape != (images,):
        raise ValueError(f"{path}: labels of shape {list(labels.shape)} for {images} images")
    beyond = np.flatnonzero((labels < 0) | (labels >= CLASSES))
    if len(beyond):
        raise ValueError(f"{path}: label {labels[beyond[0]]} of image {beyond[0]} is not in 0 … {CLASSES - 1}")
