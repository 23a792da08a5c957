"""Data sets as they are published, read into numpy arrays and checked; no fairseq."""

from momentum_fairseq.data.cifar10 import read_cifar10
from momentum_fairseq.data.idx_files import read_idx, read_mnist

__all__ = ["read_cifar10", "read_idx", "read_mnist"]
