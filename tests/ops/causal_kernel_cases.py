"""What tests of the causal kernels share: inputs and masks; natively on a GPU, else in Triton's interpreter."""

import torch

from momentum_fairseq.ops import causal_momentum_attention, recurrent_momentum_attention
from momentum_fairseq.ops.kernels import causal_setting
from tests.ops import kernel_cases
from tests.ops.cases import padding_mask, relative_rms
from tests.ops.kernel_cases import DEVICE, LIMITS, doubled, with_gradients

LINEAR = {"momentum": 0.0, "step_size": 1.0}  # of the recurrence


def split_into(monkeypatch, segments):
    monkeypatch.setattr(causal_setting, "number_of_segments", lambda *_: segments)


def inputs(length, dim=8, value_dim=8, **options):
    """q, k and v, leaves that take a gradient; positive q and k, unless not yet `mapped`."""
    return kernel_cases.inputs(length, length, dim, value_dim, **options)


def mask_of(length, side, batch=2):
    if side is None:
        return None
    if side == "inside":
        mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(5)) < 0.4
        mask[0] = False
        return mask.to(DEVICE)
    return padding_mask(batch, length, side).to(DEVICE)


def assert_exact(ours, exact, leaves):
    """`ours` of the leaves is `exact` of them in float64, values and all gradients, each in its own dtype."""
    mine, expected = with_gradients(ours, leaves), with_gradients(exact, doubled(leaves))
    limits = LIMITS[leaves[0].dtype]
    for name, a, b, leaf in zip(["out", *"qkvbg"], mine, expected, [leaves[2], *leaves], strict=False):
        assert a.dtype == leaf.dtype
        assert relative_rms(a, b) <= limits[name != "out"], f"{name}: {relative_rms(a, b)}"


def assert_is_the_recurrence(leaves, mask, **numbers):
    numbers = {**numbers, "key_padding_mask": mask}
    assert_exact(
        lambda *x: causal_momentum_attention(*x, **numbers), lambda *x: recurrent_momentum_attention(*x, **numbers), leaves
    )
