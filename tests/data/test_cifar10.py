"""CIFAR-10 in three layouts: the same images from each, nothing that a pickle asks for is run, and damage is named."""

import io
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from momentum_fairseq.data import read_cifar10
from momentum_fairseq.data.cifar10 import BATCHES, read_python_batch

ROOT = Path(__file__).resolve().parents[2]


def some(images: int = 4, seed: int = 1) -> tuple[np.ndarray, list[int]]:
    """uint8 `[n,32,32,3]` and labels."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (images, 32, 32, 3), np.uint8), random.integers(0, 10, images).tolist()


def planes(images: np.ndarray) -> np.ndarray:
    """`[n,32,32,3]` → `[n,3072]`: red, green, blue."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


def python2_text(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text  # SHORT_BINSTRING, which Python 3 never writes


def python2_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch with the opcodes of the published ones: Python 2, protocol 2, an array by numpy.core.multiarray._reconstruct."""
    data = planes(images)
    number = b"".join(b"M" + struct.pack("<H", n) for n in data.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2_text(b"b") + b"\x87R"
        b"(K\x01" + number + b"\x86cnumpy\ndtype\n" + python2_text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + python2_text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", data.nbytes) + data.tobytes() + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    named = [python2_text(b"data"), array, python2_text(b"labels"), listed, python2_text(b"batch_label"), python2_text(b"x")]
    return b"\x80\x02}(" + b"".join(named) + b"u."


def write_python(folder: Path, batches: list[bytes]) -> Path:
    for name, content in zip([*BATCHES["train"], *BATCHES["test"]], batches, strict=True):
        (folder / name).write_bytes(content)
    return folder


def jpegs(folder: Path, images: list[np.ndarray], labels: list[int]) -> Path:
    files = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="JPEG", quality=100, subsampling=0)
        files.append(stream.getvalue())
    (folder / "test.jpgs.bin").write_bytes(b"".join(files))
    np.cumsum([0, *map(len, files)]).astype("<u4").tofile(folder / "test.offsets.u32")
    np.array(labels, np.uint8).tofile(folder / "test.labels.u8")
    return folder


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize("writer", ["python 2", 4])
def test_the_python_version_comes_back_whoever_pickled_it(tmp_path, subfolder, writer):
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    batches = [some(seed=seed) for seed in range(6)]
    if writer == "python 2":
        contents = [python2_batch(*batch) for batch in batches]
    else:
        contents = [pickle.dumps({"data": planes(i), "labels": labels}, protocol=writer) for i, labels in batches]
    write_python(folder, contents)
    for split, expected in (("train", batches[:5]), ("test", batches[5:])):
        images, labels, lossy = read_cifar10(tmp_path, split, verify=False)
        assert images.dtype == labels.dtype == np.uint8 and not lossy
        assert np.array_equal(images, np.concatenate([batch[0] for batch in expected]))
        assert labels.tolist() == [label for batch in expected for label in batch[1]]


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_the_binary_version_comes_back(tmp_path, subfolder):
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    images, labels = some()
    records = np.concatenate([np.array(labels, np.uint8)[:, None], planes(images)], axis=1)
    (folder / "test_batch.bin").write_bytes(records.tobytes())
    found = read_cifar10(tmp_path, "test", verify=False)
    assert np.array_equal(found[0], images) and found[1].tolist() == labels and found[2] is False


def test_jpeg_comes_back_nearly_and_is_called_lossy(tmp_path):
    smooth = [np.full((32, 32, 3), value, np.uint8) + np.arange(32, dtype=np.uint8)[:, None] for value in (10, 90, 170)]
    images, labels, lossy = read_cifar10(jpegs(tmp_path, smooth, [3, 0, 9]), "test")
    assert lossy and labels.tolist() == [3, 0, 9] and images.shape == (3, 32, 32, 3)
    assert np.abs(images.astype(int) - np.stack(smooth).astype(int)).max() <= 3


# pickles


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch it_ran",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"data": RunsCode(), "labels": []}, protocol=2),
        pickle.dumps(RunsCode()),
        b"cbuiltins\neval\n(U\x12open('it_ran', 'w')tR.",
        b"cnumpy.core.multiarray\nfromfile\n(U\x01xtR.",
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x02}(U\x04datacnumpy\nload\nu.",
    ],
)
def test_a_pickle_that_asks_for_code_is_refused_and_nothing_runs(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match="not a CIFAR-10 batch of the Python version: it asks for .* which no CIFAR"):
        read_cifar10(tmp_path, "test", verify=False)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("size", [0, 1, 30, 200, 3000, -1])
def test_a_truncated_pickle_is_named(tmp_path, size):
    (tmp_path / "test_batch").write_bytes(python2_batch(*some())[:size])
    with pytest.raises(ValueError, match="test_batch: not a CIFAR-10 batch of the Python version"):
        read_cifar10(tmp_path, "test", verify=False)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": planes(some()[0])}, "no labels in this batch"),
        ({}, "no data and no labels in this batch"),
        ({"data": planes(some()[0]), "labels": [1, 2, 3]}, r"labels of shape \[3\] for 4 images"),
        ({"data": planes(some()[0]), "labels": [1, 2, 3, 10]}, "label 10 of image 3 is not in 0 … 9"),
        ({"data": planes(some()[0]), "labels": [1, 2, 3, -1]}, "label -1 of image 3 is not in 0 … 9"),
        ({"data": planes(some()[0]), "labels": [1, 2, 3, 10**30]}, "label 1000.* of image 3 is not in 0 … 9"),
        ({"data": planes(some()[0]), "labels": ["cat"] * 4}, "labels must be a list of whole numbers"),
        ({"data": planes(some()[0])[:, :-3], "labels": [1] * 4}, r"data must be bytes \[n, 3072\].* got an array \[4, 3069\]"),
        ({"data": "none", "labels": []}, "data must be bytes .* got str"),
        ({"data": planes(some()[0]).astype(np.int64), "labels": [1] * 4}, "expected bytes"),
        ({"data": np.asfortranarray(planes(some()[0])), "labels": [1] * 4}, "Fortran order True"),
        ([1, 2], "not a CIFAR-10 batch"),
    ],
)
def test_a_batch_of_another_make_is_named_with_what_is_wrong(tmp_path, batch, message):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(ValueError, match=f"test_batch: .*{message}"):
        read_cifar10(tmp_path, "test", verify=False)


# files


def test_data_that_is_not_the_published_one_is_refused_unless_that_is_meant(tmp_path):
    (tmp_path / "test_batch").write_bytes(python2_batch(*some()))
    with pytest.raises(ValueError, match="test_batch: the MD5 checksum is .* 40351d58"):
        read_cifar10(tmp_path, "test")
    (tmp_path / "test_batch").rename(tmp_path / "test_batch.bin")
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073 * 3))
    with pytest.raises(ValueError, match="test_batch.bin: 3 images, a published batch has 10000"):
        read_cifar10(tmp_path, "test")


@pytest.mark.parametrize("size", [0, 3072, 3073 * 2 - 1])
def test_a_truncated_binary_batch_is_named(tmp_path, size):
    (tmp_path / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(ValueError, match=f"test_batch.bin: truncated: {size} bytes are no multiple of the 3073"):
        read_cifar10(tmp_path, "test", verify=False)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no test_batch, test_batch.bin or test.jpgs.bin in"):
        read_cifar10(tmp_path, "test")
    (tmp_path / "data_batch_1").write_bytes(python2_batch(*some()))
    with pytest.raises(FileNotFoundError, match="no data_batch_2 in .*; the data set is not whole"):
        read_cifar10(tmp_path, "train", verify=False)
    with pytest.raises(FileNotFoundError, match="no data_batch_3"):
        read_python_batch(tmp_path / "data_batch_3")
    with pytest.raises(ValueError, match="unknown split 'dev'; choose from train, test"):
        read_cifar10(tmp_path, "dev")


def test_jpeg_files_of_which_a_part_is_missing_are_named(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    jpegs(tmp_path, [image, image], [1, 2])
    whole, offsets = (tmp_path / "test.jpgs.bin").read_bytes(), (tmp_path / "test.offsets.u32").read_bytes()
    for name, content, message in (
        ("test.jpgs.bin", whole[:-1], "test.jpgs.bin: .* bytes, test.offsets.u32 says"),
        ("test.jpgs.bin", bytes(len(whole)), "test.jpgs.bin: image 0, bytes 0 to .* is not a whole JPEG file"),
        ("test.jpgs.bin", whole[: len(whole) // 2 + 300] + bytes(len(whole) // 2 - 300), "image 1, .* is not a whole JPEG file"),
        ("test.offsets.u32", offsets[:-1], "test.offsets.u32: truncated: 11 bytes"),
        ("test.offsets.u32", offsets[4:], "test.offsets.u32: offsets must begin with 0 and grow"),
        ("test.offsets.u32", offsets[:4] * 3, "test.offsets.u32: offsets must begin with 0 and grow"),
        ("test.labels.u8", b"\x01", r"test.labels.u8: labels of shape \[1\] for 2 images"),
        ("test.labels.u8", b"\x01\x0a", "test.labels.u8: label 10 of image 1"),
    ):
        good = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_cifar10(tmp_path, "test")
        (tmp_path / name).write_bytes(good)
    (tmp_path / "test.labels.u8").unlink()
    with pytest.raises(FileNotFoundError, match="no test.labels.u8 in"):
        read_cifar10(tmp_path, "test")


def test_a_jpeg_of_another_size_is_refused(tmp_path):
    jpegs(tmp_path, [np.zeros((32, 32, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)], [1, 2])
    with pytest.raises(ValueError, match="image 1 has 16 × 32 pixels; CIFAR-10's have 32 × 32"):
        read_cifar10(tmp_path, "test")


def test_the_package_imports_without_pillow():
    program = "import sys; sys.modules['PIL'] = None; import momentum_fairseq; import momentum_fairseq.data"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
