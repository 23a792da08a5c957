"""The ops under torch.func's transforms, on the meta device, and with dtypes mixed: as the oracle, or refused."""

import pytest
import torch

from momentum_fairseq.ops import (
    causal_linear_attention,
    causal_momentum_attention,
    linear_attention,
    momentum_attention,
    recurrent_momentum_attention,
)
from tests.ops.cases import assert_same, inputs, padding_mask, value_and_gradients

NUMBERS = {"momentum": 0.9, "step_size": 0.7}
OPS = {
    "linear": linear_attention,
    "causal_linear": causal_linear_attention,
    "momentum": lambda *x, **more: momentum_attention(*x, **NUMBERS, **more),
    "causal_momentum": lambda *x, **more: causal_momentum_attention(*x, **NUMBERS, **more),
}
LENGTHS = (7, 150)  # one chunk, several


@pytest.fixture(params=OPS)
def attention(request):
    return OPS[request.param]


def tensors(length: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [x.detach() for x in inputs(length, length, batch=2, dim=2, value_dim=3, dtype=dtype)]


@pytest.mark.parametrize("length", LENGTHS)
def test_vmap_is_a_loop(attention, length):
    several = [torch.stack([x, 2 * x]) for x in tensors(length)]
    masks = torch.stack([padding_mask(2, length, side) for side in ("left", "right")])
    ours = torch.vmap(lambda q, k, v, mask: attention(q, k, v, key_padding_mask=mask))(*several, masks)
    loop = [attention(*(x[i] for x in several), key_padding_mask=masks[i]) for i in range(2)]
    assert_same(ours, loop)


def test_vmap_over_a_number_for_each_head_is_a_loop():
    (q, k, v), several = tensors(7), torch.tensor([[0.2, 0.9], [0.5, 0.0]], dtype=torch.float64)
    ours = torch.vmap(lambda momentum: momentum_attention(q, k, v, momentum=momentum, step_size=0.7))(several)
    assert_same(ours, [momentum_attention(q, k, v, momentum=momentum, step_size=0.7) for momentum in several])


@pytest.mark.parametrize("length", LENGTHS)
def test_forward_and_backward_differentiation_agree_with_finite_differences(attention, length):
    leaves, directions = tensors(length), [torch.randn_like(x) for x in tensors(length)]
    step = 1e-6
    ahead, behind = (attention(*(x + sign * step * d for x, d in zip(leaves, directions, strict=True))) for sign in (1, -1))
    _, forward = torch.func.jvp(attention, tuple(leaves), tuple(directions))
    torch.testing.assert_close(forward, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)
    gradients = torch.func.grad(lambda *x: attention(*x).sum(), argnums=(0, 1, 2))(*leaves)
    slope = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions, strict=True))
    torch.testing.assert_close(slope, forward.sum(), rtol=1e-9, atol=1e-9)


def test_meta_tensors_give_the_shape(attention):
    out = attention(*(x.to("meta") for x in tensors(150, torch.float32)))
    assert (out.device.type, out.dtype, tuple(out.shape)) == ("meta", torch.float32, (2, 2, 150, 3))


def test_the_oracle_sums_half_precision_in_float32_and_takes_values_of_another_dtype():
    q, k, v = tensors(300)
    exact = recurrent_momentum_attention(q, k, v, **NUMBERS)
    large = [(300 * x).half() for x in (q, k)]  # a sum of these keys is beyond float16
    ours = recurrent_momentum_attention(*large, v.half(), **NUMBERS)
    assert ours.dtype == torch.float16
    torch.testing.assert_close(ours.double(), exact, rtol=1e-2, atol=1e-2)
    mixed = recurrent_momentum_attention(q.float(), k.float(), v, **NUMBERS)
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("op", ["linear", "momentum"])
@pytest.mark.parametrize("length", LENGTHS)
def test_torch_compile_traces_values_and_gradients_into_one_graph(op, length):
    attention, leaves = OPS[op], [x.requires_grad_() for x in tensors(length)]
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    ours, expected = (value_and_gradients(lambda call=call: call(*leaves), *leaves) for call in (compiled, attention))
    assert_same(ours, expected)
