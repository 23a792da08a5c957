"""What every attention op refuses, in one place."""

import torch
from torch import Tensor


def check_shapes(q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> None:
    """Raise ValueError unless q `[B,H,N,D]`, k `[B,H,S,D]`, v `[B,H,S,M]` and the mask is bool `[B,S]`."""
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.dim() == k.dim() == v.dim() == 4:
        raise ValueError(f"attention takes q [B,H,N,D], k [B,H,S,D], v [B,H,S,M]; got {shapes}")
    if q.shape[:2] != k.shape[:2] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q [B,H,N,D], k [B,H,S,D] and v [B,H,S,M] disagree; got {shapes}")
    if key_padding_mask is None:
        return
    if key_padding_mask.dtype != torch.bool or tuple(key_padding_mask.shape) != (k.shape[0], k.shape[2]):
        raise ValueError(
            f"key_padding_mask must be bool [B,S] = [{k.shape[0]},{k.shape[2]}], True = padding; "
            f"got {key_padding_mask.dtype} {tuple(key_padding_mask.shape)}"
        )


def check_momentum(momentum: float | Tensor, step_size: float | Tensor, heads: int) -> None:
    """Raise ValueError for a number β outside [0, 1) or γ <= 0, and for a tensor that isn't one value a head.

    The values of tensors (learned) are not read: that would wait for the device at each layer.
    """
    for name, value in (("momentum", momentum), ("step_size", step_size)):
        if isinstance(value, Tensor) and tuple(value.shape) not in ((), (heads,)):
            raise ValueError(f"{name} must be a number or a tensor [H] = [{heads}], got shape {tuple(value.shape)}")
    if not isinstance(momentum, Tensor) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    if not isinstance(step_size, Tensor) and not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, got {step_size}")
