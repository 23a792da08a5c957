"""The decoding step of momentum attention on a CPU: one pass over each matrix of the state, for all heads at once."""

from typing import NamedTuple

from torch import Tensor

from momentum_fairseq.ops.checks import checked_eps
from momentum_fairseq.ops.linear_attention import read_state
from momentum_fairseq.ops.momentum_attention import MomentumState
from momentum_fairseq.ops.precision import no_autocast

LEAST_SCALE = 1e-15  # float32 has room for sums of 1 / LEAST_SCALE, and for their squares


class ScaledMomentumState(NamedTuple):
    """`MomentumState` with −m as a scale times a sum that isn't decayed: m needs no pass of its own to be multiplied by β.

        −m_i = scale_i u_i,   scale_i = β scale_{i−1},   u_i = u_{i−1} + k_i v_iᵀ / scale_i

    s, u: `[B,H,D,M]`; z: `[B,H,D]`; scale: a number.
    """

    s: Tensor
    u: Tensor
    z: Tensor
    scale: float

    @classmethod
    def of(cls, state: MomentumState) -> "ScaledMomentumState":
        """The same state, s and z in the same memory."""
        return cls(state.s, -state.m, state.z, 1.0)

    def reorder(self, indices: Tensor) -> "ScaledMomentumState":
        """The state of the sentences (or beams) `indices` `[B']` of the batch, in that order."""
        return ScaledMomentumState(*(x.index_select(0, indices) for x in self[:3]), self.scale)


def plain_state(state: MomentumState | ScaledMomentumState | None) -> MomentumState | None:
    """The same state as all other forms of momentum attention take it, s and z in the same memory."""
    return MomentumState(state.s, state.u * -state.scale, state.z) if isinstance(state, ScaledMomentumState) else state


def scaled_momentum_step_(
    q: Tensor, k: Tensor, v: Tensor, state: ScaledMomentumState, *, momentum: float, step_size: float, eps: float = 1e-6
) -> tuple[Tensor, ScaledMomentumState]:
    """`momentum_attention_step` written over the state that it is given, without gradients.

        u_i = u_{i−1} + k_i v_iᵀ / scale_i,   s_i = s_{i−1} + γ scale_i u_i,   z_i = z_{i−1} + k_i

    Args:
        q, k, v: `[B,H,D]`, `[B,H,D]`, `[B,H,M]`, in the state's dtype, q and k feature-mapped.
        state: of the positions before; its tensors are written over.
        momentum: β in [0, 1). step_size: γ > 0. eps: added to the normaliser, not negative.

    Returns:
        `[B,H,M]`, and the new state.

    Raises:
        ValueError: eps < 0.
    """
    eps = checked_eps(eps)
    s, u, z, scale = state
    scale *= momentum
    if scale < LEAST_SCALE:
        u.mul_(scale)
        scale = 1.0
    with no_autocast(q):
        u.addcmul_(k.unsqueeze(-1), v.unsqueeze(-2), value=1 / scale)
        s.add_(u, alpha=step_size * scale)
        z.add_(k)
        return read_state(q, s, z, eps), ScaledMomentumState(s, u, z, scale)
