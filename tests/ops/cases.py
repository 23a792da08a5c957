"""Inputs the tests of the ops share: feature-mapped q and k, always some padding."""

import torch

LENGTHS = (1, 7, 63, 65)
MOMENTA = (0.0, 0.1, 0.6, 0.9, 0.999)
SIDES = ("left", "right", "both")


def padding_mask(batch: int, keys: int, side: str) -> torch.Tensor:
    """Bool `[B,S]`: the first row whole, each next one with more padding, at least one key left."""
    lengths = (keys - torch.arange(batch) * max(1, keys // (batch + 1))).clamp(min=1)
    missing = keys - lengths
    start = {"left": missing, "right": torch.zeros_like(missing), "both": missing // 2}[side].unsqueeze(1)
    position = torch.arange(keys)
    return (position < start) | (position >= start + lengths.unsqueeze(1))


def inputs(queries, keys, *, batch=3, heads=2, dim=5, value_dim=3, dtype=torch.float64, seed=0):
    """Positive q `[B,H,N,D]` and k `[B,H,S,D]`, v `[B,H,S,M]`: leaves that take a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length, width):
        return torch.randn(batch, heads, length, width, generator=generator, dtype=torch.float64)

    q, k, v = draw(queries, dim), draw(keys, dim), draw(keys, value_dim)
    q, k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    return tuple(x.to(dtype).requires_grad_() for x in (q, k, v))


def value_and_gradients(function, *leaves):
    """The output, and the gradients of a fixed random projection of it for the leaves."""
    out = function()
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return (out.detach(), *torch.autograd.grad(out, leaves, direction))


def float32_errors(attention, *, length):
    """Of the output and the gradients of q, k and v: ‖float32 − float64‖ / ‖float64‖, at D = M = 32."""
    leaves = inputs(length, length, batch=1, dim=32, value_dim=32, dtype=torch.float32)
    doubles = [x.detach().double().requires_grad_() for x in leaves]
    ours, exact = (value_and_gradients(lambda x=x: attention(*x), *x) for x in (leaves, doubles))
    return [((mine.double() - other).norm() / other.norm()).item() for mine, other in zip(ours, exact, strict=True)]


def relative_rms(ours, exact):
    """The error of `ours` against float64."""
    return ((ours.double() - exact).norm() / exact.norm()).item()


def assert_same(ours, theirs, tolerance=1e-10):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)
