"""The pickles that CIFAR-10's Python version is made of, read without running anything that they ask for."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np


class _Inert:
    """Stands for numpy's classes and their maker, takes what the pickle gives them and does nothing with it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...] = arguments
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows an array of numbers and no other name."""

    def find_class(self, module: str, name: str) -> Any:
        array = module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct"
        if array or (module == "numpy" and name in ("ndarray", "dtype")):
            return _Inert
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs")


def read_batch_pickle(path: Path, content: bytes) -> dict[str, Any]:
    """The pickled dictionary of a batch: plain Python values and arrays of bytes.

    Args:
        path: for messages. content: of the file, as Python 2 or 3 has written it.

    Raises:
        ValueError: not a pickle of such a dictionary; nothing that it may ask for is run.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        named = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        return {key: _array(value) if isinstance(value, _Inert) else value for key, value in named.items()}
    except Exception as error:  # a damaged pickle may fail in any way
        raise ValueError(f"{path}: not a CIFAR-10 batch of the Python version: {error or type(error).__name__}") from error


def _array(pickled: _Inert) -> np.ndarray:
    """What numpy's __setstate__ would make of it, for unsigned bytes in C order alone."""
    _, shape, dtype, fortran_order, elements = pickled.state
    kind = dtype.arguments[0]
    if kind not in ("u1", b"u1") or fortran_order:
        raise ValueError(f"an array of {kind!r}, Fortran order {bool(fortran_order)}; expected bytes (u1) in C order")
    return np.frombuffer(elements, np.uint8).reshape(shape)
