"""What tests of the kernels share: inputs, and errors against float64; natively on a GPU, else in Triton's interpreter."""

import torch

from momentum_fairseq.ops import elu_plus_one

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MOMENTA = (0.0, 0.1, 0.3, 0.6, 0.9, 0.99, 0.999)
# Relative RMS against float64, of values and of gradients.
LIMITS = {torch.float32: (5e-7, 2e-6), torch.bfloat16: (4e-3, 1.5e-2), torch.float16: (1e-3, 2e-3)}


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def inputs(queries, keys, dim, value_dim, *, batch=2, heads=1, dtype=torch.float32, mapped=True):
    """Leaves q, k and v that take a gradient; positive q and k, unless they are yet to be mapped."""
    q, k = draw(batch, heads, queries, dim, seed=1), draw(batch, heads, keys, dim, seed=2)
    q, k = (elu_plus_one(x) if mapped else x for x in (q, k))
    return [x.to(dtype).requires_grad_() for x in (q, k, draw(batch, heads, keys, value_dim, seed=3))]


def doubled(leaves):
    return [x.detach().double().requires_grad_() for x in leaves]


def with_gradients(function, leaves):
    out = function(*leaves)
    direction = draw(*out.shape, seed=9).to(torch.promote_types(leaves[2].dtype, out.dtype))
    return [out.detach(), *torch.autograd.grad(out, leaves, direction)]


def assert_exact(ours, exact, limits):
    """Values and gradients, within the limits of relative RMS; of gradients that cancel, as of one key alone, to the value's."""
    for i, (a, b) in enumerate(zip(ours, exact, strict=True)):
        error = (a.double() - b.double()).norm()
        size = max(b.norm(), 0.1 * exact[0].norm())
        assert error <= limits[min(i, 1)] * size, f"{'output' if i == 0 else f'gradient {i}'}: {error / size:.2e}"
