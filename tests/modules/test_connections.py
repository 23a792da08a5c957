"""The three connections against their formulas written out (Nguyen et al. 2022, Eq. 15–18), and their gradients."""

import math

import pytest
import torch

from momentum_fairseq.modules import CONNECTIONS, ConnectionOptions, build_connection

SUBLAYERS = 6


def outputs(count: int = SUBLAYERS, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Sub-layer outputs `[2,3,4]`, each near the one before: adaptive β̃ then has values inside its range."""
    torch.manual_seed(3)
    result = [torch.randn(2, 3, 4, dtype=torch.float64)]
    for _ in range(count - 1):
        result.append(result[-1] + 0.1 * torch.randn(2, 3, 4, dtype=torch.float64))
    return [a.to(dtype) for a in result]


def run(options: ConnectionOptions, a: list[torch.Tensor]) -> tuple[list[torch.Tensor], list]:
    """x_0, x_1, … and the states, with the identity between sub-layers."""
    connection = build_connection(options)
    xs, states, state = [torch.ones_like(a[0])], [], None
    for output in a:
        x, state = connection(xs[-1], output, state)
        xs.append(x)
        states.append(state)
    return xs, states


def test_the_three_connections_are_there_by_name():
    assert sorted(CONNECTIONS) == ["adaptive", "momentum", "residual"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "dense"}, "unknown connection 'dense'; choose from adaptive, momentum, residual"),
        ({"ratio": "norm"}, "unknown ratio 'norm'; choose from output, velocity"),
        ({"momentum": 1.0}, "connection momentum must be in [0, 1), got 1.0"),
        ({"momentum": -0.1}, "connection momentum must be in [0, 1), got -0.1"),
        ({"step_size": 0.0}, "connection step size must be positive and finite, got 0.0"),
        ({"step_size": float("inf")}, "connection step size must be positive and finite, got inf"),
        ({"delta": 0.0}, "connection delta must be in (0, 1), got 0.0"),
        ({"delta": 1.0}, "connection delta must be in (0, 1), got 1.0"),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(values, message):
    with pytest.raises(ValueError) as error:
        build_connection(ConnectionOptions(**values))
    assert str(error.value) == message


def test_residual_adds_and_carries_nothing():
    a = outputs()
    xs, states = run(ConnectionOptions(kind="residual"), a)
    torch.testing.assert_close(xs[-1], 1 + sum(a), rtol=1e-14, atol=1e-14)
    assert states == [None] * SUBLAYERS


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_momentum_with_step_one_is_eq_15_literally(beta):
    a = outputs()
    xs, _ = run(ConnectionOptions(kind="momentum", momentum=beta, step_size=1.0), a)
    previous, x = xs[0], xs[0]
    for k, output in enumerate(a):
        previous, x = x, x + output + beta * (x - previous)
        torch.testing.assert_close(xs[k + 1], x, rtol=1e-12, atol=1e-13)


def test_momentum_with_any_step_is_the_heavy_ball_written_out():
    a = outputs()
    xs, states = run(ConnectionOptions(kind="momentum", momentum=0.7, step_size=0.9), a)
    for k in range(SUBLAYERS):
        velocity = sum(0.7 ** (k - j) * a[j] for j in range(k + 1))
        torch.testing.assert_close(states[k].velocity, velocity, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(xs[k + 1], xs[k] + 0.9 * velocity, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["momentum", "adaptive"])
def test_the_first_sub_layer_has_no_momentum(kind):
    x, a = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    new, state = build_connection(ConnectionOptions(kind=kind, momentum=0.9, step_size=0.5))(x, a, None)
    torch.testing.assert_close(new, x + 0.5 * a, rtol=1e-15, atol=1e-15)
    assert state.momentum is None
    assert torch.equal(state.velocity, a)


@pytest.mark.parametrize("ratio", ["output", "velocity"])
def test_adaptive_momentum_is_eq_18_written_out(ratio):
    a = outputs()
    xs, states = run(ConnectionOptions(kind="adaptive", step_size=0.9, delta=1e-3, ratio=ratio), a)
    for b in range(2):
        for n in range(3):
            x, velocity, last = xs[0][b, n].tolist(), [0.0] * 4, None
            for k in range(SUBLAYERS):
                output, beta = a[k][b, n].tolist(), 0.0
                if k:
                    r = math.dist(output, last) / math.hypot(*(last if ratio == "output" else velocity))
                    beta = min(max((1 - math.sqrt(r)) ** 2, 0.0), 1 - 1e-3)
                    assert states[k].momentum[b, n].item() == pytest.approx(beta, rel=1e-9)
                velocity = [beta * u + o for u, o in zip(velocity, output, strict=True)]
                x = [xi + 0.9 * u for xi, u in zip(x, velocity, strict=True)]
                last = output
                assert xs[k + 1][b, n].tolist() == pytest.approx(x, rel=1e-9)


def test_the_two_ratios_agree_at_the_second_sub_layer_and_differ_at_the_third():
    a = outputs(3)
    (by_output, _), (by_velocity, _) = (
        run(ConnectionOptions(kind="adaptive", ratio=ratio), a) for ratio in ("output", "velocity")
    )
    assert torch.equal(by_output[2], by_velocity[2])
    assert (by_output[3] - by_velocity[3]).abs().min() > 1e-4


def test_adaptive_momentum_stays_in_its_range():
    torch.manual_seed(1)
    scales = torch.logspace(-20, 20, 400, dtype=torch.float64).view(1, 400, 1)
    first = torch.randn(1, 400, 4, dtype=torch.float64)
    connection = build_connection(ConnectionOptions(kind="adaptive", delta=0.01))
    _, state = connection(first, first, None)
    _, state = connection(first, first + scales * torch.randn_like(first), state)
    assert state.momentum.min() >= 0
    assert state.momentum.max() == 0.99
    assert (state.momentum < 0.05).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adaptive_momentum_stays_in_its_range_in_low_precision_too(dtype):
    connection, a = build_connection(ConnectionOptions(kind="adaptive")), torch.randn(1, 3, 8).to(dtype)
    _, state = connection(a, a, None)
    _, state = connection(a, a, state)
    assert ((state.momentum > 0.99) & (state.momentum <= 0.999)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ratio", ["output", "velocity"])
@pytest.mark.parametrize("case", ["identical", "zeros", "zero then not", "not then zero", "tiny", "huge"])
def test_gradients_are_finite_at_the_edges(case, ratio, dtype):
    torch.manual_seed(1)
    some = torch.randn(2, 3, 4, dtype=dtype)
    none = torch.zeros_like(some)
    a = {
        "identical": [some, some, some],
        "zeros": [none, none, none],
        "zero then not": [none, some, some],
        "not then zero": [some, none, none],
        "tiny": [1e-30 * some, 2e-30 * some, 2e-30 * some],
        "huge": [1e10 * some, 1e-10 * some, 1e10 * some],
    }[case]
    leaves = [output.clone().requires_grad_() for output in a]
    xs, _ = run(ConnectionOptions(kind="adaptive", ratio=ratio), leaves)
    assert xs[-1].isfinite().all()
    (xs[-1] * torch.randn_like(some)).sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_the_gradient_check_fails_where_the_norms_have_no_eps():
    connection = CONNECTIONS["adaptive"](ConnectionOptions(kind="adaptive"), eps=0.0)
    a = torch.randn(2, 3, 4, requires_grad=True)
    _, state = connection(a, a, None)
    x, _ = connection(a, a.clone(), state)
    x.sum().backward()
    assert not a.grad.isfinite().all()


def test_gradients_flow_through_adaptive_momentum():
    a = [output.requires_grad_() for output in outputs(2)]
    _, states = run(ConnectionOptions(kind="adaptive"), a)
    assert ((states[1].momentum > 0) & (states[1].momentum < 0.99)).all()
    gradients = torch.autograd.grad(states[1].momentum.sum(), a)
    assert all((gradient.norm(dim=-1) > 0).all() for gradient in gradients)


@pytest.mark.parametrize("kind", sorted(CONNECTIONS))
def test_gradients_are_the_derivatives(kind):
    def last(*a: torch.Tensor) -> torch.Tensor:
        return run(ConnectionOptions(kind=kind), list(a))[0][-1]

    assert torch.autograd.gradcheck(last, [output.requires_grad_() for output in outputs(3)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_its_type_and_stays_near_float32(dtype):
    low = outputs(3, dtype)
    xs, states = run(ConnectionOptions(kind="adaptive"), low)
    exact, _ = run(ConnectionOptions(kind="adaptive"), [a.float() for a in low])
    assert xs[-1].dtype == states[-1].velocity.dtype == dtype
    torch.testing.assert_close(xs[-1].float(), exact[-1], rtol=0, atol=16 * torch.finfo(dtype).eps)
