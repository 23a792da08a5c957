"""Connections around attention sub-layers, by name: residual, momentum, adaptive (Nguyen et al. 2022, Eq. 15–18).

All share one signature: `x, a, state → x', state`, with x the sub-layer's input, a its output, and `state=None` at the first
sub-layer of a chain.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.ops.adaptive_step import adaptive_step

RATIO_DENOMINATORS = ("output", "velocity")


@dataclass(frozen=True)
class ConnectionOptions:
    """What a connection is made of; each kind takes what it needs.

    Attributes:
        kind: a name in `CONNECTIONS`.
        momentum: β̃ in [0, 1); the adaptive kind computes its own.
        step_size: γ̃ > 0.
        delta: δ in (0, 1): an adaptive momentum stays at or below 1 − δ.
        ratio: what Eq. 18 divides by: the norm of the previous `output` (the paper), or of the `velocity` (its published code).
    """

    kind: str = "residual"
    momentum: float = 0.3
    step_size: float = 0.9
    delta: float = 1e-3
    ratio: str = "output"

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"connection momentum must be in [0, 1), got {self.momentum}")
        if not 0 < self.step_size < float("inf"):
            raise ValueError(f"connection step size must be positive and finite, got {self.step_size}")
        if not 0 < self.delta < 1:
            raise ValueError(f"connection delta must be in (0, 1), got {self.delta}")
        if self.ratio not in RATIO_DENOMINATORS:
            raise ValueError(f"unknown ratio {self.ratio!r}; choose from {', '.join(RATIO_DENOMINATORS)}")


class ConnectionState(NamedTuple):
    """What a chain carries from one sub-layer to the next.

    velocity: u `[B,N,C]`; output: a `[B,N,C]`; momentum: the β̃ that was used, `[B,N,1]`, None where it isn't computed.
    """

    velocity: Tensor
    output: Tensor
    momentum: Tensor | None


class ResidualConnection(nn.Module):
    """x' = x + a."""

    def __init__(self, options: ConnectionOptions) -> None:
        super().__init__()

    def forward(self, x: Tensor, a: Tensor, state: ConnectionState | None = None) -> tuple[Tensor, None]:
        """`[B,N,C]`, `[B,N,C]` → `[B,N,C]` and no state."""
        return x + a, None


class MomentumConnection(nn.Module):
    """u_k = β̃ u_{k−1} + a_k,  x' = x + γ̃ u_k  (Nguyen et al. 2022, Eq. 15–16: a heavy ball with a for −∇f)."""

    def __init__(self, options: ConnectionOptions) -> None:
        super().__init__()
        self.momentum, self.step_size = options.momentum, options.step_size

    def forward(self, x: Tensor, a: Tensor, state: ConnectionState | None = None) -> tuple[Tensor, ConnectionState]:
        """`[B,N,C]`, `[B,N,C]` → `[B,N,C]` and the state for the next sub-layer."""
        velocity = a if state is None else torch.add(a, state.velocity, alpha=self.momentum)
        return torch.add(x, velocity, alpha=self.step_size), ConnectionState(velocity, a, None)


class AdaptiveMomentumConnection(nn.Module):
    """The momentum connection with β̃_k = clamp((1 − √r_k)², 0, 1 − δ),  r_k = ‖a_k − a_{k−1}‖ / ‖a_{k−1}‖  (Eq. 17–18).

    Norms are per token over the features, in float32 at least. β̃_1 = 0: there is no history. Gradients flow through β̃.

    Args:
        options: step_size, delta and ratio are used.
        eps: the least that a norm counts as, so that equal outputs, zeros and padding have finite gradients.
    """

    def __init__(self, options: ConnectionOptions, eps: float = 1e-6) -> None:
        super().__init__()
        self.by_velocity = options.ratio == "velocity"
        self.step_size, self.delta, self.eps = options.step_size, options.delta, eps

    def forward(self, x: Tensor, a: Tensor, state: ConnectionState | None = None) -> tuple[Tensor, ConnectionState]:
        """`[B,N,C]`, `[B,N,C]` → `[B,N,C]` and the state for the next sub-layer."""
        if state is None:
            return torch.add(x, a, alpha=self.step_size), ConnectionState(a, a, None)
        x, velocity, momentum = adaptive_step(
            x, a, state.output, state.velocity, self.by_velocity, self.step_size, self.delta, self.eps
        )
        return x, ConnectionState(velocity, a, momentum)


CONNECTIONS: dict[str, Callable[[ConnectionOptions], nn.Module]] = {
    "residual": ResidualConnection,
    "momentum": MomentumConnection,
    "adaptive": AdaptiveMomentumConnection,
}


def build_connection(options: ConnectionOptions) -> nn.Module:
    """The connection that `options.kind` names; ValueError for an unknown name."""
    return lookup(CONNECTIONS, options.kind, "connection")(options)
