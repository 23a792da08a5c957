"""The causal kernels where β is so small that all keys but recent ones weigh the same: one state for two."""

from itertools import pairwise

import pytest
import torch

pytest.importorskip("triton")

from momentum_fairseq.ops import causal_momentum_attention, padding_free_attention, recurrent_momentum_attention
from momentum_fairseq.ops.kernels import causal_setting
from momentum_fairseq.ops.kernels.causal_setting import ONE_STATE_TILES, TILES, Tile, one_state, setting_of
from tests.ops.causal_kernel_cases import assert_exact, assert_is_the_recurrence, inputs, mask_of, split_into
from tests.ops.kernel_cases import DEVICE

pytest_plugins = ["tests.ops.kernel_fixtures"]
pytestmark = pytest.mark.usefixtures("by_triton")


@pytest.fixture(autouse=True)
def chunks_of_32(monkeypatch):
    monkeypatch.setattr(causal_setting, "tile_of", lambda *_: Tile(32, 32, 4, 1))


def setting(momentum, *, linear=False, beta=None, padding=None, states=False, dtype=torch.float32):
    q, k, v = inputs(70, dtype=dtype)
    return setting_of(q, k, v, (momentum, 0.7), beta, None, linear, padding, None, 70, 1e-6, False, states)


@pytest.mark.parametrize(
    ("dtype", "momentum", "segments"),
    [(torch.float32, 0.0, 1), (torch.float32, 0.1, 1), (torch.float32, 0.3, 2), (torch.bfloat16, 0.6, 2)],
)
def test_it_is_the_recurrence(dtype, momentum, segments, monkeypatch):
    assert setting(momentum, dtype=dtype).steady == 1 / (1 - momentum)
    split_into(monkeypatch, segments)
    assert_is_the_recurrence(inputs(103, 8, 20, dtype=dtype, batch=1), None, momentum=momentum, step_size=0.7)


def test_recent_keys_are_those_of_the_same_sequence():
    bounds = torch.tensor([0, 40, 41, 100], dtype=torch.int32, device=DEVICE)
    numbers = {"momentum": 0.3, "step_size": 0.7}

    def each(*rows):
        pieces = [recurrent_momentum_attention(*(x[:, :, a:b] for x in rows), **numbers) for a, b in pairwise(bounds.tolist())]
        return torch.cat(pieces, dim=2)

    def together(*rows):
        return padding_free_attention(causal_momentum_attention, *rows, cu_seqlens=bounds, max_length=59, **numbers)

    assert_exact(together, each, inputs(100, batch=1))


def test_where_keys_of_earlier_chunks_differ_or_a_state_is_taken_along_there_are_two():
    assert setting(0.3).state_table is None and setting(0.3).recent == 16
    assert setting(0.6).steady is None  # float32 holds more powers of it than half a chunk
    assert setting(0.6, dtype=torch.bfloat16).recent == 16 and setting(0.9, dtype=torch.bfloat16).steady is None
    for other in ({"beta": torch.full((1,), 0.3)}, {"padding": mask_of(70, "left")}, {"states": True}):
        assert setting(0.3, **other).steady is None and setting(0.3, **other).state_table is not None
    linear = setting(0.0, linear=True)
    assert linear.steady is None and linear.state_table is None


def test_what_is_left_out_is_rounded_away():
    for dtype, momentum in ((torch.float32, 0.38), (torch.bfloat16, 0.6), (torch.bfloat16, 0.82)):
        steady, recent = one_state(momentum, dtype, 64)
        assert steady is not None and momentum ** (recent + 2) <= torch.finfo(dtype).eps / 4


def test_one_state_has_the_chunks_of_two():
    for major, by_size in ONE_STATE_TILES.items():
        for half, tiles in by_size.items():
            assert all(tile.chunk == TILES[major][half][width].chunk for width, tile in tiles.items())
