"""MNIST (LeCun, Cortes, Burges) in its idx files, plain or gzipped."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from momentum_fairseq.data.checks import check_labels, check_md5, check_split

SIDE = 28
UNSIGNED_BYTES = 8  # the idx code of the element type; MNIST has no other
STEMS = {"train": "train", "test": "t10k"}
# Of the content, not of the archive: one made anew by another gzip holds the same.
PUBLISHED = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def read_mnist(folder: str | Path, split: str, *, verify: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a split.

    Args:
        folder: holds `<train|t10k>-<images-idx3|labels-idx1>-ubyte`, plain or with `.gz`; the plain file goes first.
        split: `train` or `test`.
        verify: compare with the published checksums.

    Returns:
        uint8 `[n,28,28]`, 0 = black, and uint8 `[n]`.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: an unknown split; a file that is damaged, not of this format or, with `verify`, not the published one; images
            of another size; labels that don't go with the images.
    """
    check_split(split)
    images, _ = _read(Path(folder), f"{STEMS[split]}-images-idx3-ubyte", 3, verify)
    labels, labels_path = _read(Path(folder), f"{STEMS[split]}-labels-idx1-ubyte", 1, verify)
    if images.shape[1:] != (SIDE, SIDE):
        height, width = images.shape[1:]
        raise ValueError(f"{folder}: the {split} images have {height} × {width} pixels; MNIST's have {SIDE} × {SIDE}")
    check_labels(labels_path, labels, len(images))
    return images, labels


def read_idx(path: str | Path, dimensions: int, *, md5: str | None = None) -> np.ndarray:
    """An idx file of unsigned bytes, gzipped where its name ends in .gz.

        00 00 08 <dimensions>   sizes, big-endian uint32 each   the elements

    Args:
        md5: of the content, unpacked; None = not compared.

    Returns:
        uint8, of as many dimensions as asked for.

    Raises:
        ValueError: another magic number, too few or too many bytes, a damaged archive, another checksum.
    """
    path = Path(path)
    content = _unpacked(path)
    expected, start = bytes([0, 0, UNSIGNED_BYTES, dimensions]), 4 * (1 + dimensions)
    if len(content) >= 4 and content[:4] != expected:
        raise ValueError(
            f"{path}: the magic number is {content[:4].hex()}; an idx file of unsigned bytes in {dimensions} dimensions begins "
            f"with {expected.hex()}"
        )
    if len(content) < start:
        raise ValueError(f"{path}: truncated: {len(content)} bytes, the header alone has {start}")
    sizes = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    whole = start + int(np.prod(sizes, dtype=object))
    if len(content) != whole:
        what = "truncated" if len(content) < whole else "too long"
        raise ValueError(f"{path}: {what}: {len(content)} bytes, the header ({' × '.join(map(str, sizes))}) says {whole}")
    if md5 is not None:
        check_md5(path, content, md5)
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _read(folder: Path, name: str, dimensions: int, verify: bool) -> tuple[np.ndarray, Path]:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return read_idx(path, dimensions, md5=PUBLISHED[name] if verify else None), path
    raise FileNotFoundError(f"no {name} and no {name}.gz in {folder}; name the folder of MNIST's four idx files")


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: a damaged gzip file ({error}); download it again") from error
