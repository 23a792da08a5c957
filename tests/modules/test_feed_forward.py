"""The feed-forward sub-layers against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from momentum_fairseq.modules import FEED_FORWARDS


def build(kind: str, **values) -> torch.nn.Module:
    torch.manual_seed(1)
    return FEED_FORWARDS[kind](6, 9, **{"dropout": 0.0, "normalize_before": False, **values}).double()


def two_layers(network: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    hidden = (x @ network[0].weight.T + network[0].bias).clamp(min=0)
    return hidden @ network[2].weight.T + network[2].bias


def test_highway_with_the_norm_after_is_its_formula():
    """y = LN(g ∘ x + (1 − g) ∘ FFN(x)), g = sigmoid(FFN_gate(x))"""
    module, x = build("highway"), torch.randn(2, 3, 6, dtype=torch.float64)
    g = 1 / (1 + torch.exp(-two_layers(module.gate, x)))
    expected = F.layer_norm(g * x + (1 - g) * two_layers(module.ffn, x), (6,))
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-12)


def test_highway_with_the_norm_before_gates_on_the_normalised_input():
    module, x = build("highway", normalize_before=True), torch.randn(2, 3, 6, dtype=torch.float64)
    y = F.layer_norm(x, (6,))
    g = torch.sigmoid(two_layers(module.gate, y))
    torch.testing.assert_close(module(x), g * x + (1 - g) * two_layers(module.ffn, y), rtol=1e-10, atol=1e-12)


def test_residual_is_its_formula_with_either_norm():
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    after, before = build("residual"), build("residual", normalize_before=True)
    torch.testing.assert_close(after(x), F.layer_norm(x + two_layers(after.ffn, x), (6,)), rtol=1e-10, atol=1e-12)
    expected = x + two_layers(before.ffn, F.layer_norm(x, (6,)))
    torch.testing.assert_close(before(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", sorted(FEED_FORWARDS))
def test_dropout_is_on_the_update_not_on_the_input(kind):
    module, x = build(kind, dropout=1.0), torch.randn(2, 3, 6, dtype=torch.float64)
    kept = x * torch.sigmoid(module.gate(x)) if kind == "highway" else x
    torch.testing.assert_close(module(x), F.layer_norm(kept, (6,)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", sorted(FEED_FORWARDS))
@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_more_than_its_rounding(kind, normalize_before, dtype):
    module, x = build(kind, normalize_before=normalize_before).float(), torch.randn(2, 3, 6)
    with torch.autocast("cpu", dtype):
        y = module(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, module(x), rtol=0, atol=16 * torch.finfo(dtype).eps)
    y.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("kind", sorted(FEED_FORWARDS))
def test_the_networks_start_as_xavier_has_it_and_without_biases(kind):
    parameters = dict(build(kind).named_parameters())
    for name in [name for name in parameters if ".weight" in name and "norm" not in name]:
        assert 0.9 * (6 / 15) ** 0.5 < parameters[name].abs().max() <= (6 / 15) ** 0.5
        assert not parameters[name.replace("weight", "bias")].any()


@pytest.mark.parametrize("kind", sorted(FEED_FORWARDS))
def test_gelu_takes_the_place_of_relu(kind):
    module, x = build(kind, activation="gelu"), torch.randn(2, 3, 6, dtype=torch.float64)
    networks = [module.ffn, module.gate] if kind == "highway" else [module.ffn]
    for network in networks:
        hidden = x @ network[0].weight.T + network[0].bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        torch.testing.assert_close(network(x), hidden @ network[2].weight.T + network[2].bias, rtol=1e-10, atol=1e-12)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="unknown activation 'tanh'; choose from gelu, relu"):
        build("residual", activation="tanh")
