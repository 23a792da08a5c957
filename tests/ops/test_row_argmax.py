"""The blocked argmax against torch's own."""

import pytest
import torch

from momentum_fairseq.ops.row_argmax import WIDTH, row_argmax

COLUMNS = [1, 4 * WIDTH - 1, 4 * WIDTH, 4 * WIDTH + 1, 5 * WIDTH - 1, 1000]


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_the_argmax(columns, dtype):
    x = torch.randn(40, columns + 3, generator=torch.Generator().manual_seed(1)).to(dtype)[:, 3:]
    assert torch.equal(row_argmax(x), x.argmax(1))


@pytest.mark.parametrize("columns", COLUMNS)
def test_of_equal_values_it_is_the_first(columns):
    x = torch.randint(3, (200, columns), generator=torch.Generator().manual_seed(1)).float()
    first = torch.tensor([row.index(max(row)) for row in x.tolist()])
    assert torch.equal(row_argmax(x), first)


@pytest.mark.parametrize("columns", COLUMNS[1:])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_infinities_and_nans_are_found_where_they_are(columns, value):
    x = torch.randn(columns, columns)
    x.fill_diagonal_(value)
    x[:, -1] = value
    assert torch.equal(row_argmax(x), torch.arange(columns))


def test_a_row_of_minus_infinities_gives_its_first_column():
    assert torch.equal(row_argmax(torch.full((2, 300), -torch.inf)), torch.zeros(2, dtype=torch.long))


def test_no_rows_give_no_places():
    assert row_argmax(torch.empty(0, 300)).shape == (0,)
