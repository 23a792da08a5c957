"""Feature maps by name: what they are, their gradients, and that they leave their input alone."""

import pytest
import torch
from torch.autograd import forward_ad

from momentum_fairseq.ops import FEATURE_MAPS, feature_maps


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_products_of_features_are_not_negative_and_at_least_float32(name, dtype):
    x = torch.linspace(-30, 30, 101).to(dtype)
    features = FEATURE_MAPS[name](torch.stack([x, -x, x.flip(0)]))
    assert features.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (features @ features.T).ge(0).all()


def test_elu_is_exp_below_zero_and_x_plus_1_above():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(FEATURE_MAPS["elu"](x), torch.where(x < 0, x.exp(), x + 1))


@pytest.fixture
def by_powers_of_two(monkeypatch):
    """elu + 1 of few numbers taken as of many."""
    for few in ("FEW", "FEW_RECORDED"):
        monkeypatch.setattr(feature_maps, few, 0)


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elu_of_many_numbers_is_exact_wherever_they_lie(monkeypatch, by_powers_of_two, dtype, blocks):
    if blocks:
        monkeypatch.setattr(feature_maps, "BLOCK", 50)
        monkeypatch.setattr(feature_maps, "BLOCKS", 50)
    edges = torch.tensor([0.0, -0.0, 200.0, -1000.0, torch.inf, -torch.inf, torch.nan])
    x = torch.cat([torch.linspace(-80, 5, 1003), edges]).to(dtype).view(2, 5, 101)
    exact = torch.where(x < 0, x.double().exp(), x.double() + 1)
    rounded = 80 * torch.finfo(dtype).eps  # x log₂ e is
    lying = {"whole": lambda y: y, "transposed": lambda y: y.mT, "in parts": lambda y: y[:, ::2]}
    for name, lie in lying.items():
        found = FEATURE_MAPS["elu"](lie(x))
        assert found.dtype == dtype, name
        torch.testing.assert_close(found.double(), lie(exact), rtol=rounded, atol=0, equal_nan=True, msg=name)


def test_gradients_of_elu_of_many_numbers(by_powers_of_two):
    x = torch.cat([torch.linspace(-3, 3, 8, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]).requires_grad_()
    few = x.detach()[:-1].requires_grad_()  # numerical gradients of gradients aren't defined at zero
    assert torch.autograd.gradcheck(FEATURE_MAPS["elu"], x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(FEATURE_MAPS["elu"], few)


@pytest.mark.parametrize("blocks", [False, True])
def test_other_ways_to_differentiate_elu_of_many_numbers(monkeypatch, by_powers_of_two, blocks):
    if blocks:
        monkeypatch.setattr(feature_maps, "BLOCKS", 0)
    elu, x = FEATURE_MAPS["elu"], torch.linspace(-3, 3, 8, dtype=torch.float64)
    slope = torch.where(x < 0, x.exp(), 1)
    with forward_ad.dual_level():
        for leaf in (x, x.clone().requires_grad_()):
            tangent = forward_ad.unpack_dual(elu(forward_ad.make_dual(leaf, torch.full_like(x, 2)))).tangent
            torch.testing.assert_close(tangent, 2 * slope)
    torch.testing.assert_close(torch.func.jacrev(elu)(x), slope.diag())
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(elu))(x), slope)


def test_squared_relu_is_zero_below_zero_and_a_square_above():
    x = torch.tensor([-3.0, 0.0, 3.0])
    assert FEATURE_MAPS["squared_relu"](x).tolist() == [0.0, 0.0, 9.0]


def test_softmax_features_sum_to_one():
    x = torch.tensor([[0.0, 0.0], [1000.0, -1000.0]])
    assert FEATURE_MAPS["softmax"](x).tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_hedgehog_has_features_of_both_signs():
    x = torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64)
    e = x.exp()
    expected = torch.cat([e / e.sum(), (1 / e) / (1 / e).sum()])
    torch.testing.assert_close(FEATURE_MAPS["hedgehog"](x), expected)


@pytest.mark.parametrize("dim", [1, 2, 139])
def test_taylor_is_exp_to_the_second_order(dim):
    torch.manual_seed(dim)
    q, k = (torch.randn(7, dim, dtype=torch.float64) for _ in range(2))
    s = q @ k.T / dim**0.5
    expected, phi = 1 + s + s.square() / 2, FEATURE_MAPS["taylor"]
    torch.testing.assert_close(phi(q) @ phi(k).T, expected)
    torch.testing.assert_close(phi.of_products(q @ k.T, dim), expected)
    assert phi(q).shape == (7, phi.width(dim))


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_gradcheck(name):
    x = torch.linspace(-3, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FEATURE_MAPS[name], x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(FEATURE_MAPS[name], x)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_the_input_stays_as_it_was(name):
    x = torch.linspace(-3, 3, 8)
    before = x.clone()
    FEATURE_MAPS[name](x)
    assert torch.equal(x, before)
