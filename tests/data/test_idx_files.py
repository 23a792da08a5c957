"""MNIST's idx files: plain and gzipped alike, and everything that isn't one is refused by name."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from momentum_fairseq.data import read_idx, read_mnist


def idx(array: np.ndarray, code: int = 8) -> bytes:
    """An array of bytes as an idx file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, images: np.ndarray, labels: np.ndarray, split: str = "train", packed: bool = False) -> Path:
    """The two files of a split."""
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        content, path = idx(array), folder / f"{split}-{name}-ubyte"
        if packed:
            path, content = path.with_name(path.name + ".gz"), gzip.compress(content)
        path.write_bytes(content)
    return folder


def some(images: int = 5, height: int = 28, width: int = 28) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.integers(0, 256, (images, height, width), np.uint8), random.integers(0, 10, images).astype(np.uint8)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
def test_images_and_labels_come_back_as_they_were_written(tmp_path, packed, split, stem):
    written = some()
    write(tmp_path, *written, split=stem, packed=packed)
    for found, expected in zip(read_mnist(tmp_path, split, verify=False), written, strict=True):
        assert found.dtype == np.uint8 and np.array_equal(found, expected)


def test_data_that_is_not_the_published_one_is_refused_unless_that_is_meant(tmp_path):
    write(tmp_path, *some(), packed=True)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz: the MD5 checksum is .* 6bbc9ace.*verify=False"):
        read_mnist(tmp_path, "train")


def test_a_checksum_is_of_the_content_however_it_was_packed(tmp_path):
    import hashlib

    content = idx(np.arange(6, dtype=np.uint8))
    for level in (1, 9):
        path = tmp_path / f"{level}.gz"
        path.write_bytes(gzip.compress(content, level))
        assert read_idx(path, 1, md5=hashlib.md5(content).hexdigest()).tolist() == list(range(6))


WHOLE = idx(np.zeros((2, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated: 0 bytes, the header alone has 16"),
        (WHOLE[:9], "truncated: 9 bytes, the header alone has 16"),
        (WHOLE[:-1], "truncated: 1583 bytes, the header .2 × 28 × 28. says 1584"),
        (WHOLE + b"x", "too long: 1585 bytes, the header .2 × 28 × 28. says 1584"),
        (idx(np.zeros((2, 28), np.uint8)), "the magic number is 00000802; .* in 3 dimensions begins with 00000803"),
        (idx(np.zeros((2, 28, 28), np.uint8), code=13), "the magic number is 00000d03"),
        (b"\x89PNG and so on", "the magic number is 89504e47"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, *(3 * [2**32 - 1])), "truncated: 16 bytes"),
    ],
)
def test_a_damaged_or_other_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        read_mnist(tmp_path, "train", verify=False)


@pytest.mark.parametrize(
    "content",
    [b"no gzip at all", gzip.compress(WHOLE)[:-9], gzip.compress(WHOLE)[:20] + b"\0" * 30],
    ids=["no gzip", "cut short", "garbled"],  # not the bytes: gzip's header holds the time, and xdist's workers must agree
)
def test_a_damaged_archive_is_named(tmp_path, content):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz: a damaged gzip file .*download it again"):
        read_mnist(tmp_path, "train", verify=False)


def test_images_of_another_size_are_refused(tmp_path):
    write(tmp_path, *some(height=27))
    with pytest.raises(ValueError, match="the train images have 27 × 28 pixels; MNIST's have 28 × 28"):
        read_mnist(tmp_path, "train", verify=False)


def test_labels_that_do_not_go_with_the_images_are_refused(tmp_path):
    images, labels = some()
    write(tmp_path, images, labels[:-1])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte: labels of shape \[4\] for 5 images"):
        read_mnist(tmp_path, "train", verify=False)
    labels[3] = 10
    write(tmp_path, images, labels)
    with pytest.raises(ValueError, match="label 10 of image 3 is not in 0 … 9"):
        read_mnist(tmp_path, "train", verify=False)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz in"):
        read_mnist(tmp_path, "train")
    write(tmp_path, *some())
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="no train-labels-idx1-ubyte"):
        read_mnist(tmp_path, "train", verify=False)
    with pytest.raises(ValueError, match="unknown split 'valid'; choose from train, test"):
        read_mnist(tmp_path, "valid")
