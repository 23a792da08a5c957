"""Sinusoids against the formula, learned positions, and positions of padded sentences."""

import math

import pytest
import torch

from momentum_fairseq.modules import LearnedPositions, SinusoidalPositions


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 139])
def test_the_table_is_the_formula_also_for_an_odd_width(dim):
    table = SinusoidalPositions(30, dim)(30)
    for position in (0, 1, 29):
        for i in range(dim):
            angle = position / 10000 ** (2 * (i // 2) / dim)
            expected = math.cos(angle) if i % 2 else math.sin(angle)
            assert table[position, i].item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("kind", [LearnedPositions, SinusoidalPositions])
def test_more_positions_than_built_for_are_refused(kind):
    positions = kind(10, 4)
    assert positions(10).shape == (10, 4)
    with pytest.raises(ValueError, match="11 positions asked for, but the model was built for 10"):
        positions(11)


def test_the_table_is_not_saved():
    assert SinusoidalPositions(10, 4).state_dict() == {}


@pytest.mark.parametrize("kind", [LearnedPositions, SinusoidalPositions])
@pytest.mark.parametrize("assign", [False, True])
def test_a_table_built_on_meta_is_there_once_it_is_loaded(kind, assign):
    saved = kind(10, 4)
    with torch.device("meta"):
        positions = kind(10, 4)
    positions = positions if assign else positions.to_empty(device="cpu")
    positions.load_state_dict(saved.state_dict(), assign=assign)
    assert torch.equal(positions(10), saved(10))


@pytest.mark.parametrize("kind", [LearnedPositions, SinusoidalPositions])
def test_positions_count_from_the_first_real_token_on_either_side(kind):
    positions = kind(10, 4)
    padding = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    out = positions.of_real_tokens(padding)
    assert torch.equal(out[0, 2:], positions(3))
    assert torch.equal(out[1, :3], positions(3))
    assert torch.equal(out[2], positions(5))


def test_learned_positions_are_saved_and_learned_where_there_is_a_token():
    positions = LearnedPositions(10, 4)
    assert list(positions.state_dict()) == ["table"]
    padding = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=torch.bool)
    out = positions.of_real_tokens(padding)
    out.masked_fill(padding.unsqueeze(-1), 0.0).sum().backward()
    assert torch.equal(positions.table.grad[:, 0], torch.tensor([2.0, 2, 2, 1, 0, 0, 0, 0, 0, 0]))
    assert 0.01 < LearnedPositions(1000, 64).table.std() < 0.03


def test_positions_of_later_columns_go_on_counting():
    positions = SinusoidalPositions(10, 4)
    padding = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    for first in range(5):
        assert torch.equal(positions.of_real_tokens(padding, first), positions.of_real_tokens(padding)[:, first:])
