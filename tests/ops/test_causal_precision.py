"""Causal attention in float32 and half precision against float64."""

import pytest
import torch

from momentum_fairseq.ops import causal_linear_attention, causal_momentum_attention, momentum_attention_step
from tests.ops.cases import inputs, padding_mask, relative_rms

HALVES = (torch.bfloat16, torch.float16)
ATTENTIONS = {
    "linear": causal_linear_attention,
    "momentum": lambda q, k, v, **more: causal_momentum_attention(q, k, v, momentum=0.999, step_size=1.0, **more),
}


@pytest.mark.parametrize("momentum", [0.1, 0.6, 0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_the_error_of_float32_does_not_grow_with_the_momentum(momentum):
    tensors = [x.detach() for x in inputs(4096, 4096, batch=1, dim=32, value_dim=32, dtype=torch.float32)]
    exact = causal_momentum_attention(*(x.double() for x in tensors), momentum=momentum, step_size=1.0)
    assert relative_rms(causal_momentum_attention(*tensors, momentum=momentum, step_size=1.0), exact) <= 5e-7


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("length", [16, 300])
def test_the_error_of_half_precision_is_that_of_rounding_a_float32_result(length, attention, dtype):
    q, k, v = (x.detach() for x in inputs(length, length, dtype=dtype, dim=8, value_dim=8))
    mask = padding_mask(3, length, "left")
    exact = attention(q.double(), k.double(), v.double(), key_padding_mask=mask)
    plain = attention(q.float(), k.float(), v.float(), key_padding_mask=mask).to(dtype)
    out = attention(q, k, v, key_padding_mask=mask)
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert relative_rms(out, exact) <= 2 * relative_rms(plain, exact)


def test_sums_over_4096_large_keys_do_not_overflow_in_float16():
    """The key sum is 409600 here, the largest float16 is 65504."""
    k, v = torch.full((1, 1, 4096, 32), 100.0).half(), torch.full((1, 1, 4096, 8), 10.0).half()
    out, state = causal_momentum_attention(k, k, v, momentum=0.9, step_size=1.0, return_state=True)
    torch.testing.assert_close(out[:, :, -1].float(), torch.full((1, 1, 8), 99.78), rtol=1e-3, atol=0)
    assert all(x.isfinite().all() for x in (out, *state))


@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("length", [4, 200])
def test_sums_stay_in_float32_under_autocast(length, attention):
    tensors = inputs(length, length, dtype=torch.float32, dim=32, value_dim=32)

    def run(enabled):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out, state = attention(*tensors, return_state=True)
        total = out.square().sum() + sum(x.sum() for x in state)
        return (out.detach(), *(x.detach() for x in state), *torch.autograd.grad(total, tensors))

    for ours, expected in zip(run(True), run(False), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("momentum", [0.3, 0.9])
@pytest.mark.parametrize("length", [4, 300])
def test_so_do_those_of_a_backward_that_is_called_under_autocast(length, momentum):
    tensors = inputs(length, length, dtype=torch.float32, dim=32, value_dim=32)

    def run(enabled):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = causal_momentum_attention(*tensors, momentum=momentum, step_size=1.0)
            return torch.autograd.grad(out.square().sum(), tensors)

    for ours, expected in zip(run(True), run(False), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.9, 0.9999])
def test_the_error_of_2048_steps_does_not_grow_with_the_momentum(momentum, learned):
    tensors = [x.detach() for x in inputs(2048, 2048, batch=1, dim=8, value_dim=8, dtype=torch.float32)]
    momentum = torch.full((2,), momentum) if learned else momentum
    exact = causal_momentum_attention(*(x.double() for x in tensors), momentum=momentum, step_size=1.0)
    state, outs = None, []
    for i in range(2048):
        row = (x[:, :, i] for x in tensors)
        out, state = momentum_attention_step(*row, state, momentum=momentum, step_size=1.0, in_place=True)
        outs.append(out)
    assert relative_rms(torch.stack(outs, dim=2), exact) <= 1e-6
