"""Dropout with cheap random bits: what it drops, how often, and that torch's own is its equal."""

import pytest
import torch
import torch.nn.functional as F

from momentum_fairseq.modules import Dropout
from momentum_fairseq.modules.dropout import LEVELS


def dropped(p: float, size: int, seed: int = 1) -> torch.Tensor:
    """Ones after dropout."""
    torch.manual_seed(seed)
    return Dropout(p).train()(torch.ones(size))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1e-3])
def test_elements_are_dropped_with_probability_p_and_scaled_so_that_the_mean_stays(p):
    size = 1_000_000
    out = dropped(p, size)
    kept = out[out != 0]
    exact = 1 - round(p * LEVELS) / LEVELS
    assert abs(len(kept) / size - (1 - p)) < 5 * (p * (1 - p) / size) ** 0.5 + 1 / LEVELS
    assert torch.equal(kept, torch.full_like(kept, 1 / exact))


@pytest.mark.parametrize("p", [1 - 1 / LEVELS, 1 - 1e-9])
def test_at_the_largest_probability_below_one_some_elements_are_kept(p):
    kept = dropped(p, 1_000_000)
    assert kept.unique().tolist() == [0, LEVELS]
    assert 1 <= kept.count_nonzero() <= 35  # 15 ± 5 · 4


def test_elements_are_dropped_independently_of_their_neighbours():
    """Four share a draw of 64 bits: the joint counts of the four are those of a product, by χ²."""
    p = 0.3
    groups = dropped(p, 1_000_000).eq(0).view(-1, 4).long()
    observed = torch.bincount((groups * torch.tensor([1, 2, 4, 8])).sum(1), minlength=16).double()
    ones = torch.tensor([bin(i).count("1") for i in range(16)]).double()
    expected = len(groups) * p**ones * (1 - p) ** (4 - ones)
    assert ((observed - expected) ** 2 / expected).sum() < 45  # χ² with 15 degrees of freedom: 1 in 13,000


def test_two_calls_drop_different_elements_and_one_seed_the_same():
    torch.manual_seed(1)
    layer, x = Dropout(0.5).train(), torch.ones(1000)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5, 7), (0, 4)])
def test_shape_and_dtype_stay(shape, dtype):
    out = Dropout(0.5).train()(torch.ones(shape, dtype=dtype))
    assert out.shape == shape and out.dtype == dtype
    assert torch.isin(out, torch.tensor([0, 2], dtype=dtype)).all()


def test_the_gradient_is_dropped_and_scaled_as_the_value_is():
    x = torch.randn(3, 40, requires_grad=True)
    out = Dropout(0.25).train()(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_at_zero_and_one_it_is_torchs_own(p):
    x = torch.randn(50)
    assert torch.equal(Dropout(p).train()(x), F.dropout(x, p))


def test_nothing_is_dropped_or_drawn_outside_training():
    x, state = torch.randn(50), torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("modules", "retained"), [(None, True), ("Layer", False), ("Encoder,EncoderLayer", True), (["EncoderLayer"], True)]
)
def test_dropout_is_retained_in_evaluation_where_asked_for(modules, retained):
    layer, x = Dropout(0.5, "EncoderLayer").eval(), torch.ones(1000)
    layer.make_generation_fast_(name="encoder.dropout", retain_dropout=True, retain_dropout_modules=modules)
    out = layer(x)
    assert out.eq(0).any() == retained and out.eq(2).any() == retained
    layer.make_generation_fast_(name="encoder.dropout")
    assert layer(x) is x


def test_a_probability_that_is_none_is_refused():
    with pytest.raises(ValueError, match="dropout probability"):
        Dropout(1.5)
