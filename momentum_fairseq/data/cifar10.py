"""CIFAR-10 (Krizhevsky 2009): its published Python and binary versions, and a lossy one in JPEG."""

import io
from pathlib import Path

import numpy as np

from momentum_fairseq.data.batch_pickle import read_batch_pickle
from momentum_fairseq.data.checks import check_labels, check_md5, check_split

SIDE = 32
PIXELS = 3 * SIDE * SIDE
BATCH_IMAGES = 10_000
JPEG_ENDS = ("jpgs.bin", "offsets.u32", "labels.u8")
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
ARCHIVE_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")
# Of the Python version. None are published for the files of the binary one.
PUBLISHED = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def read_cifar10(folder: str | Path, split: str, *, verify: bool = True) -> tuple[np.ndarray, np.ndarray, bool]:
    """The images and labels of a split, and whether they have gone through a lossy compression.

    Args:
        folder: holds one of these, or the folder that an archive unpacks to; the first that is there is taken.
            `data_batch_1` … `5`, `test_batch`: the Python version;
            the same with `.bin`: the binary version;
            `<train|test>.jpgs.bin`, `.offsets.u32`, `.labels.u8`: JPEG files one behind the other, where each begins and the
            last one ends (little-endian uint32 `[n+1]`), and a byte for each label. Results on it can't be compared with others'.
        split: `train` or `test`.
        verify: compare with the published checksums (Python version) or number of images (binary version).

    Returns:
        uint8 `[n,32,32,3]` in r, g, b; uint8 `[n]`; True for JPEG.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: an unknown split; a file that is damaged, not of its format or, with `verify`, not the published one; an
            image of another size; labels that don't go with the images.
    """
    files = cifar10_files(folder, split)
    if files[0].name == f"{split}.{JPEG_ENDS[0]}":
        return *read_jpegs(Path(folder), split), True
    read = read_binary_batch if files[0].suffix == ".bin" else read_python_batch
    images, labels = (np.concatenate(parts) for parts in zip(*(read(file, verify=verify) for file in files), strict=True))
    return images, labels, False


def cifar10_files(folder: str | Path, split: str) -> list[Path]:
    """The files that `read_cifar10` reads of a folder.

    Raises:
        FileNotFoundError: the first of none of the versions is there.
        ValueError: an unknown split.
    """
    check_split(split)
    first, folder = BATCHES[split][0], Path(folder)
    for place in (folder, *(folder / name for name in ARCHIVE_FOLDERS)):
        for suffix in ("", ".bin"):
            if (place / f"{first}{suffix}").is_file():
                return [place / f"{name}{suffix}" for name in BATCHES[split]]
    if (folder / f"{split}.{JPEG_ENDS[0]}").is_file():
        return [folder / f"{split}.{end}" for end in JPEG_ENDS]
    raise FileNotFoundError(
        f"no {first}, {first}.bin or {split}.jpgs.bin in {folder}; name the folder of CIFAR-10's Python or binary version"
    )


def read_python_batch(path: Path, *, verify: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[n,32,32,3]` and `[n]` of a pickled batch; nothing in it is run.

    Raises:
        FileNotFoundError, ValueError: as `read_cifar10`.
    """
    content = _content(path)
    if verify:
        check_md5(path, content, PUBLISHED[path.name])
    batch = read_batch_pickle(path, content)
    missing = {"data", "labels"} - batch.keys()
    if missing:
        raise ValueError(f"{path}: no {' and no '.join(sorted(missing))} in this batch")
    data, labels = batch["data"], batch["labels"]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != PIXELS:
        found = f"an array {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path}: data must be bytes [n, {PIXELS}], images of {SIDE} × {SIDE} in three colours; got {found}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise ValueError(f"{path}: labels must be a list of whole numbers")
    numbers = np.array(labels, dtype=object)
    check_labels(path, numbers, len(data))
    return _interleaved(data), numbers.astype(np.uint8)


def read_binary_batch(path: Path, *, verify: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[n,32,32,3]` and `[n]` of a batch of records: the label, then 1,024 bytes for each of red, green and blue.

    Raises:
        FileNotFoundError, ValueError: as `read_cifar10`.
    """
    content, record = _content(path), 1 + PIXELS
    if not content or len(content) % record:
        raise ValueError(f"{path}: truncated: {len(content)} bytes are no multiple of the {record} that an image takes")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    if verify and len(records) != BATCH_IMAGES:
        raise ValueError(
            f"{path}: {len(records)} images, a published batch has {BATCH_IMAGES}; download it again, or, if this is other "
            f"data on purpose, leave checksums aside (verify=False; --skip-checksums)"
        )
    labels = records[:, 0].copy()
    check_labels(path, labels, len(records))
    return _interleaved(records[:, 1:]), labels


def read_jpegs(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[n,32,32,3]` and `[n]` of a split in JPEG.

    Raises:
        FileNotFoundError, ValueError: as `read_cifar10`.
    """
    from PIL import Image  # here: the package must import on machines that lack Pillow

    path, offsets_path, labels_path = (folder / f"{split}.{end}" for end in JPEG_ENDS)
    files, offset_bytes = _content(path), _content(offsets_path)
    if len(offset_bytes) % 4 or len(offset_bytes) < 8:
        raise ValueError(f"{offsets_path}: truncated: {len(offset_bytes)} bytes are no uint32 for each image and the end")
    offsets = np.frombuffer(offset_bytes, "<u4").astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) <= 0).any():
        raise ValueError(f"{offsets_path}: offsets must begin with 0 and grow")
    if offsets[-1] != len(files):
        raise ValueError(f"{path}: {len(files)} bytes, {offsets_path.name} says {offsets[-1]}")
    labels = np.frombuffer(_content(labels_path), np.uint8).copy()
    check_labels(labels_path, labels, len(offsets) - 1)
    images = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
    for number, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        try:
            with Image.open(io.BytesIO(files[start:end]), formats=["JPEG"]) as image:
                if image.size != (SIDE, SIDE):
                    width, height = image.size
                    raise ValueError(f"{path}: image {number} has {height} × {width} pixels; CIFAR-10's have {SIDE} × {SIDE}")
                images[number] = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:  # Pillow has both for a file that is no JPEG or ends early
            raise ValueError(f"{path}: image {number}, bytes {start} to {end}, is not a whole JPEG file ({error})") from error
    return images, labels


def _interleaved(planes: np.ndarray) -> np.ndarray:
    """A red, a green and a blue plane an image, `[n, 3·32·32]` → `[n,32,32,3]`."""
    return np.ascontiguousarray(planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; the data set is not whole")
    return path.read_bytes()
