"""--optimizer radam takes torch's steps, and what it has counted comes from checkpoints."""

import math

import pytest
import torch
from fairseq.optim import OPTIMIZER_REGISTRY
from torch import nn

from momentum_fairseq.radam import RAdam, RAdamConfig


def descend(parameter: nn.Parameter, optimizer: RAdam | torch.optim.Optimizer, steps: int) -> None:
    """Minimise Σ (x − 1)⁴."""
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter - 1).pow(4).sum().backward()
        optimizer.step()


def test_the_name_is_registered():
    assert OPTIMIZER_REGISTRY["radam"] is RAdam


@pytest.mark.parametrize(("eps", "decay"), [(1e-8, 0.0), (0.1, 0.2)])
def test_its_steps_follow_the_rectified_update(eps, decay):
    """Liu et al. 2020, algorithm 2, written out for one number; weight decay is decoupled."""
    parameter = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = RAdam(RAdamConfig(lr=[0.01], adam_betas="(0.8, 0.9)", adam_eps=eps, weight_decay=decay), [parameter])
    x, m, v, longest = 3.0, 0.0, 0.0, 2 / (1 - 0.9) - 1
    for t in range(1, 31):
        gradient = 4 * (x - 1) ** 3
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        length = longest - 2 * t * 0.9**t / (1 - 0.9**t)
        step = m / (1 - 0.8**t)
        if length > 5:
            rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            step *= math.sqrt(rectified) * math.sqrt(1 - 0.9**t) / (math.sqrt(v) + eps)
        x -= 0.01 * (step + decay * x)
        descend(parameter, optimizer, 1)
        assert parameter.item() == pytest.approx(x, abs=1e-9)


def test_a_resumed_optimizer_takes_the_same_steps_with_the_given_options():
    start = torch.tensor([3.0, -2.0, 0.5])
    whole, first, second = (nn.Parameter(start.clone()) for _ in range(3))
    config = RAdamConfig(lr=[0.01])
    descend(whole, RAdam(config, [whole]), 20)
    before, after = RAdam(config, [first]), RAdam(config, [second])
    descend(first, before, 12)
    second.data.copy_(first.data)
    after.load_state_dict(before.state_dict(), {"weight_decay": 0.0})
    descend(second, after, 8)
    assert torch.equal(second, whole)


@pytest.mark.parametrize("betas", ["0.9", "(0.9, 'b')", "(0.9", "(0.9, 0.99, 0.999)"])
def test_betas_that_are_not_two_numbers_are_refused(betas):
    with pytest.raises(ValueError, match="--adam-betas must be two numbers"):
        RAdam(RAdamConfig(lr=[0.01], adam_betas=betas), [nn.Parameter(torch.zeros(1))])
