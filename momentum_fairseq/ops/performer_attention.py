"""FAVOR+, the features of performer attention (Choromanski et al., "Rethinking Attention with Performers", ICLR 2021)."""

import torch
from torch import Tensor

from momentum_fairseq.ops.precision import no_autocast


def orthogonal_directions(heads: int, features: int, dim: int, generator: torch.Generator) -> Tensor:
    """Gaussian directions ω, orthogonal in blocks of D of them, with the norms of independent ones (section 2.4).

    Returns:
        float32 `[H,F,D]` on the CPU.
    """
    blocks = -(-features // dim)
    gaussian = torch.randn(heads, blocks, dim, dim, generator=generator, dtype=torch.float64)
    directions, triangular = torch.linalg.qr(gaussian)
    # Signs of the diagonal: without them Q is not uniform over the orthogonal matrices.
    directions = directions * triangular.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    norms = torch.randn(heads, blocks, dim, dim, generator=generator, dtype=torch.float64).norm(dim=-1, keepdim=True)
    return (norms * directions.transpose(-1, -2)).flatten(1, 2)[:, :features].float()


def positive_query_features(q: Tensor, directions: Tensor) -> Tensor:
    """exp(ω·q / D^¼) over the largest of them, for each query: what the division cancels in a normalised attention is left out.

    Args:
        q: `[B,H,N,D]`. directions: `[H,F,D]`.

    Returns:
        `[B,H,N,F]` in (0, 1], float32 or better.
    """
    exponents, _ = projected(q, directions)
    return (exponents - exponents.amax(-1, keepdim=True).detach()).exp()


def positive_key_features(k: Tensor, directions: Tensor) -> Tensor:
    """exp(ω·x − ‖x‖² / 2) with x = k / D^¼ (Lemma 1).

        E_ω[exp(ω·x − ‖x‖²/2) exp(ω·y − ‖y‖²/2)] = exp(x·y) = exp(q·k / √D)

    so that linear attention with these features estimates softmax(q kᵀ / √D) v. No feature exceeds exp(‖ω‖² / 2).

    Args:
        k: `[B,H,S,D]`. directions: `[H,F,D]`.

    Returns:
        `[B,H,S,F]`, positive, float32 or better.
    """
    exponents, half_square = projected(k, directions)
    return (exponents - half_square).exp()


def projected(x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """ω·x `[B,H,N,F]` and ‖x‖² / 2 `[B,H,N,1]` of x / D^¼, float32 or better."""
    with no_autocast(x):
        dtype = torch.promote_types(x.dtype, torch.float32)
        x = x.to(dtype) * x.shape[-1] ** -0.25
        return x @ directions.to(dtype).transpose(-1, -2), x.square().sum(-1, keepdim=True) / 2
