"""Random feature attention, without a gate (Peng et al., "Random Feature Attention", ICLR 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.ops.causal_product import ProductState, causal_product
from momentum_fairseq.ops.checks import check_causal, check_shapes
from momentum_fairseq.ops.precision import in_full_precision, no_autocast

# The least normaliser: less than the kernel of any two unit vectors at σ = 1, which is at least e⁻² = 0.135. An estimate of a sum
# of kernels can be smaller, or negative, by its error alone, and must not be divided by.
LEAST_NORMALISER = 0.1


def trigonometric_features(x: Tensor, directions: Tensor) -> Tensor:
    """φ(x) = [sin(ω·x/‖x‖), cos(ω·x/‖x‖)] / √F (Rahimi & Recht 2007; section 3.1).

        E_ω[φ(x)·φ(y)] = exp(−‖σ ∘ (x/‖x‖ − y/‖y‖)‖² / 2)        ω ~ N(0, diag σ²)

    which for equal σ is proportional to exp(σ² cos(x, y)).

    Args:
        x: `[B,H,N,D]`. directions: ω, `[H,F,D]`.

    Returns:
        `[B,H,N,2F]`, float32 or better.
    """
    with no_autocast(x):
        dtype = torch.promote_types(x.dtype, torch.float32)
        angles = F.normalize(x.to(dtype), dim=-1) @ directions.to(dtype).transpose(-1, -2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1) * directions.shape[1] ** -0.5


def random_feature_attention(q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
    """Σ_j (q_i·k_j) v_j / max(Σ_j q_i·k_j, 0.1) over the real keys, not causal.

    Args:
        q, k: `[B,H,N,F]`, `[B,H,S,F]`, already feature-mapped. v: `[B,H,S,M]`.
        key_padding_mask: bool `[B,S]`, True = padding.

    Returns:
        `[B,H,N,M]` in v's dtype, summed in float32 or better; zeros where a row has no real key.

    Raises:
        ValueError: shapes that disagree.
    """
    check_shapes(q, k, v, key_padding_mask)
    return read_random_features(q, remember_random_features(k, v, key_padding_mask)).to(v.dtype)


def remember_random_features(k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> ProductState:
    """Σ_j k_j [v_j, 1]ᵀ `[B,H,F,M+1]`, all that queries read of a source."""
    with no_autocast(k):
        _, k, v = in_full_precision(k, k, v, key_padding_mask)
        return ProductState(k.transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0))


def read_random_features(q: Tensor, source: ProductState) -> Tensor:
    """Queries `[B,H,N,F]` of what `remember_random_features` gave → `[B,H,N,M]`, float32 or better."""
    with no_autocast(q):
        return divided(q.to(source.s.dtype) @ source.s)


def causal_random_feature_attention(
    q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None, state: ProductState | None = None
) -> tuple[Tensor, ProductState]:
    """Σ_{j≤i} (q_i·k_j) v_j / max(Σ_{j≤i} q_i·k_j, 0.1) over the real keys, in time and memory linear in N.

    Args:
        q, k: `[B,H,N,F]`, already feature-mapped. v: `[B,H,N,M]`.
        key_padding_mask: bool `[B,N]`, True = padding, anywhere.
        state: of the positions before the first one; None = there are none.

    Returns:
        `[B,H,N,M]` in v's dtype, and the state after the last key.

    Raises:
        ValueError: shapes that disagree, or N != S.
    """
    check_shapes(q, k, v, key_padding_mask)
    check_causal(q, k)
    out_dtype = v.dtype
    with no_autocast(q):
        q, k, v = in_full_precision(q, k, v, key_padding_mask)
        sums, state = causal_product(q, k, F.pad(v, (0, 1), value=1.0), state)
        return divided(sums).to(out_dtype), state


def divided(sums: Tensor) -> Tensor:
    """Numerators and, last, the normaliser, `[..,M+1]` → `[..,M]`."""
    return sums[..., :-1] / sums[..., -1:].clamp(min=LEAST_NORMALISER)
