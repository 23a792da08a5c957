"""What every attention op refuses, in one place."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from momentum_fairseq.ops.feature_maps import FeatureMap, feature_width
from momentum_fairseq.ops.kept import is_traced

State = TypeVar("State", bound=tuple[Tensor, ...])

LEAST_EPS = 1e-20  # too little to change a normaliser of 1e-12 or more in float32; its inverse is within float32


def shapes_of(q: Tensor, k: Tensor, v: Tensor) -> str:
    """For a message; written only where one is raised, since this takes as long as a small product."""
    return f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"


def check_types(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless the three are on one device, real floating, and q and k of one dtype; v may have its own."""
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k and v must be on one device; got q on {q.device}, k on {k.device}, v on {v.device}")
    if q.dtype != k.dtype or not (q.is_floating_point() and v.is_floating_point()):
        raise ValueError(f"q and k must be of one floating dtype, v of any; got q {q.dtype}, k {k.dtype}, v {v.dtype}")


def check_shapes(q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> None:
    """Raise ValueError unless q `[B,H,N,D]`, k `[B,H,S,D]`, v `[B,H,S,M]` and the mask is bool `[B,S]`, as `check_types`."""
    if not q.dim() == k.dim() == v.dim() == 4:
        raise ValueError(f"attention takes q [B,H,N,D], k [B,H,S,D], v [B,H,S,M]; got {shapes_of(q, k, v)}")
    if q.shape[:2] != k.shape[:2] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q [B,H,N,D], k [B,H,S,D] and v [B,H,S,M] disagree; got {shapes_of(q, k, v)}")
    check_types(q, k, v)
    check_mask(key_padding_mask, k.shape[0], k.shape[2], k.device)


def check_mask(key_padding_mask: Tensor | None, batch: int, keys: int, device: torch.device) -> None:
    """Raise ValueError unless the mask is None, or bool `[B,S]` on k's device."""
    if key_padding_mask is None:
        return
    if key_padding_mask.dtype != torch.bool or tuple(key_padding_mask.shape) != (batch, keys):
        raise ValueError(
            f"key_padding_mask must be bool [B,S] = [{batch},{keys}], True = padding; "
            f"got {key_padding_mask.dtype} {tuple(key_padding_mask.shape)}"
        )
    if key_padding_mask.device != device:
        raise ValueError(f"key_padding_mask must be on k's device {device}, got {key_padding_mask.device}")


def check_momentum(momentum: float | Tensor, step_size: float | Tensor, heads: int) -> None:
    """Raise ValueError for β outside [0, 1) or γ <= 0, where `values_of` reads them, and for a tensor that isn't one a head."""
    for name, value in (("momentum", momentum), ("step_size", step_size)):
        if isinstance(value, Tensor) and tuple(value.shape) not in ((), (heads,)):
            raise ValueError(f"{name} must be a number or a tensor [H] = [{heads}], got shape {tuple(value.shape)}")
    for value in values_of(momentum):
        if not 0 <= value < 1:
            raise ValueError(f"momentum must be in [0, 1), got {value}")
    for value in values_of(step_size):
        if not 0 < value < float("inf"):
            raise ValueError(f"step_size must be positive and finite, got {value}")


def checked_eps(eps: float) -> float:
    """eps, or instead of 0 the least that keeps a row without a real key from 0/0.

    Raises:
        ValueError: negative, NaN or infinite.
    """
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be finite and not negative, got {eps}")
    return max(eps, LEAST_EPS)


def values_of(number: float | Tensor) -> list[float]:
    """A number; a CPU tensor's values. None of a tensor on a GPU, for which each layer would wait, or of one that is traced."""
    if not isinstance(number, Tensor):
        return [number]
    if number.device.type != "cpu" or is_traced():
        return []
    try:
        return number.flatten().tolist()
    except RuntimeError:  # under vmap
        return []


def check_causal(q: Tensor, k: Tensor) -> None:
    """Raise ValueError unless there are as many queries as keys."""
    if q.shape[2] != k.shape[2]:
        raise ValueError(f"causal attention needs as many queries as keys, got N = {q.shape[2]}, S = {k.shape[2]}")


def check_step(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless q `[B,H,D]`, k `[B,H,D]` and v `[B,H,M]` are of one position."""
    if not (q.dim() == v.dim() == 3 and q.shape == k.shape and k.shape[:2] == v.shape[:2]):
        raise ValueError(f"a step takes q [B,H,D], k [B,H,D], v [B,H,M] of one position; got {shapes_of(q, k, v)}")
    check_types(q, k, v)


def checked_state(state: Sequence[Tensor], kind: type[State], k: Tensor, v: Tensor, feature_map: FeatureMap | None) -> State:
    """The state as its kind, a NamedTuple, which it may be already; or a plain tuple or list of the fields in their order.

    Its fields are matrices `[B,H,D,M]`, and last the key sum `[B,H,D]`; φ, yet to be taken of k, makes D features of its D'.

    Raises:
        ValueError: a state of another kind, or that doesn't fit k `[B,H,..,D']` and v `[B,H,..,M]`.
    """
    if type(state) not in (kind, tuple, list):
        raise ValueError(f"the state must be a {kind.__name__}, got {type(state).__name__}")
    if len(state) != len(kind._fields):
        raise ValueError(f"the state must be a {kind.__name__} ({', '.join(kind._fields)}), got {len(state)} tensors")
    sums = (*k.shape[:2], feature_width(k, feature_map))
    for name, tensor in zip(kind._fields, state, strict=True):
        expected = sums if name == kind._fields[-1] else (*sums, v.shape[-1])
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{kind.__name__}.{name} must be a tensor, got {type(tensor).__name__}")
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{kind.__name__}.{name} must be {list(expected)} to go with k and v, got {list(tensor.shape)}")
        if tensor.device != k.device:
            raise ValueError(f"{kind.__name__}.{name} must be on k's device {k.device}, got {tensor.device}")
    return kind(*state)
