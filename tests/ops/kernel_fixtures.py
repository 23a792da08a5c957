"""Fixtures of the kernels' tests, a plugin of pytest: a GPU machine without fairseq runs them without any conftest.py."""

import pytest

from momentum_fairseq.ops.kernel_choice import VARIABLE
from momentum_fairseq.ops.kernels import causal_setting
from momentum_fairseq.ops.kernels.causal_setting import Tile


@pytest.fixture
def by_triton(monkeypatch):
    """Everything that the kernels take goes to them, on a CPU too."""
    monkeypatch.setenv(VARIABLE, "triton")


@pytest.fixture
def small_tiles(monkeypatch):
    """Several chunks and blocks of columns in a short sequence."""
    monkeypatch.setattr(causal_setting, "tile_of", lambda *_: Tile(16, 32, 4, 1))
