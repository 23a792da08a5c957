import pytest
import torch

from momentum_fairseq.ops import (
    causal_linear_attention,
    causal_momentum_attention,
    causal_softmax_attention,
    linear_attention,
    momentum_attention,
    momentum_attention_step,
    recurrent_momentum_attention,
    softmax_attention,
    symmetric_momentum_attention,
)
from tests.ops.cases import assert_same, inputs, padding_mask, value_and_gradients

NUMBERS = {"momentum": 0.5, "step_size": 1.0}
ATTENTIONS = {
    "softmax": softmax_attention,
    "linear": linear_attention,
    "momentum": lambda q, k, v, **more: momentum_attention(q, k, v, **NUMBERS, **more),
    "symmetric momentum": lambda q, k, v, **more: symmetric_momentum_attention(q, k, v, **NUMBERS, **more),
    "recurrent": lambda q, k, v, **more: recurrent_momentum_attention(q, k, v, **NUMBERS, **more),
    "causal softmax": causal_softmax_attention,
    "causal linear": causal_linear_attention,
    "causal momentum": lambda q, k, v, **more: causal_momentum_attention(q, k, v, **NUMBERS, **more),
}
LINEAR_ORDER = 30  # a length at which the features are the smaller axis


@pytest.fixture(params=ATTENTIONS)
def attention(request):
    return ATTENTIONS[request.param]


@pytest.mark.parametrize(
    "mask, found",
    [
        (torch.zeros(3, 4), r"torch.float32 \(3, 4\)"),
        (torch.zeros(3, 4, dtype=torch.long), r"torch.int64 \(3, 4\)"),
        (torch.zeros(3, 5, dtype=torch.bool), r"torch.bool \(3, 5\)"),
        (torch.zeros(1, 4, dtype=torch.bool), r"torch.bool \(1, 4\)"),
        (torch.zeros(4, dtype=torch.bool), r"torch.bool \(4,\)"),
    ],
)
def test_a_mask_of_the_wrong_type_or_shape_is_refused(attention, mask, found):
    with pytest.raises(ValueError, match=rf"bool \[B,S\] = \[3,4\], True = padding; got {found}"):
        attention(*inputs(4, 4), key_padding_mask=mask)


@pytest.mark.parametrize("which, change", [(0, (2, 2, 4, 5)), (0, (3, 1, 4, 5)), (1, (3, 2, 4, 6)), (2, (3, 2, 5, 3))])
def test_shapes_that_disagree_are_refused(attention, which, change):
    tensors = list(inputs(4, 4))
    tensors[which] = torch.rand(change, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"disagree; got q \(.*\), k \(.*\), v \(.*\)"):
        attention(*tensors)


def test_tensors_without_a_head_axis_are_refused(attention):
    with pytest.raises(ValueError, match=r"attention takes q \[B,H,N,D\]"):
        attention(*(x[:, 0] for x in inputs(4, 4)))


@pytest.mark.parametrize("which", range(3))
def test_tensors_on_two_devices_are_refused_by_their_devices(attention, which):
    tensors = list(inputs(4, 4))
    tensors[which] = tensors[which].to("meta")
    with pytest.raises(ValueError, match="must be on one device; got q on .*meta|must be on one device; got q on meta"):
        attention(*tensors)


def test_a_mask_on_another_device_is_refused(attention):
    with pytest.raises(ValueError, match="key_padding_mask must be on k's device cpu, got meta"):
        attention(*inputs(4, 4), key_padding_mask=torch.zeros(3, 4, dtype=torch.bool, device="meta"))


@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.float64, torch.float64), (torch.int64,) * 3, (torch.float64, torch.float64, torch.int64)]
)
def test_q_and_k_of_two_dtypes_and_whole_numbers_are_refused(attention, dtypes):
    tensors = [x.detach().to(dtype) for x, dtype in zip(inputs(4, 4), dtypes, strict=True)]
    with pytest.raises(ValueError, match=f"of one floating dtype, v of any; got q {dtypes[0]}, k {dtypes[1]}, v {dtypes[2]}"):
        attention(*tensors)


def test_a_step_is_refused_what_all_positions_at_once_are(attention):
    q, k, v = (x.detach()[:, :, 0] for x in inputs(4, 4))
    _, state = momentum_attention_step(q, k, v, None, **NUMBERS)
    with pytest.raises(ValueError, match="must be on one device"):
        momentum_attention_step(q, k.to("meta"), v, state, **NUMBERS)
    with pytest.raises(ValueError, match="of one floating dtype"):
        momentum_attention_step(q, k.float(), v, state, **NUMBERS)
    with pytest.raises(ValueError, match="MomentumState.m must be on k's device cpu, got meta"):
        momentum_attention_step(q, k, v, state._replace(m=state.m.to("meta")), **NUMBERS)


@pytest.mark.parametrize("length", [4, LINEAR_ORDER, 150])
def test_strided_and_expanded_inputs_give_what_their_copies_give(attention, length):
    q, k, v = inputs(length, length)
    layouts = [
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: x.flip(-1).repeat_interleave(2, dim=-1)[..., ::2],
        lambda x: x[:1, :1].expand(3, 2, -1, -1),
        lambda x: x[:, :, :1].expand(-1, -1, length, -1),
    ]
    for layout in layouts:
        strided = value_and_gradients(lambda layout=layout: attention(*(layout(x) for x in (q, k, v))), q, k, v)
        copies = value_and_gradients(lambda layout=layout: attention(*(layout(x).contiguous() for x in (q, k, v))), q, k, v)
        assert_same(strided, copies)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("batch, length", [(0, 4), (0, LINEAR_ORDER), (3, 0), (0, 0)])
@pytest.mark.parametrize("attention", [x for name, x in ATTENTIONS.items() if name != "recurrent"])
def test_an_empty_batch_or_sequence_gives_an_empty_output_and_gradients(attention, batch, length, masked):
    leaves = [x.detach()[:batch, :, :length].requires_grad_() for x in inputs(LINEAR_ORDER, LINEAR_ORDER)]
    mask = torch.zeros(batch, length, dtype=torch.bool) if masked else None
    out, *gradients = value_and_gradients(lambda: attention(*leaves, key_padding_mask=mask), *leaves)
    assert out.shape == (batch, 2, length, 3)
    assert [x.shape for x in gradients] == [x.shape for x in leaves]


@pytest.mark.parametrize("dim, value_dim", [(0, 3), (5, 0), (0, 0)])
@pytest.mark.parametrize("name", ["causal linear", "causal momentum"])
def test_a_state_of_no_features_or_no_values_is_carried_on(name, dim, value_dim):
    attention, (q, k, v) = ATTENTIONS[name], inputs(150, 150, dim=dim, value_dim=value_dim)
    _, state = attention(q, k, v, return_state=True)
    out, state = attention(q, k, v, initial_state=state, return_state=True)
    assert out.shape == (3, 2, 150, value_dim) and not out.any()
    assert state.s.shape == (3, 2, dim, value_dim) and state.z.shape == (3, 2, dim)


@pytest.mark.parametrize("length", [4, LINEAR_ORDER, 150])
def test_a_nan_comes_out_of_its_own_sentence_only(attention, length):
    q, k, v = (x.detach().clone() for x in inputs(length, length))
    for spoilt in (q, k, v):
        clean = spoilt[1, 0, length // 2, 0].item()
        spoilt[1, 0, length // 2, 0] = float("nan")
        out = attention(q, k, v, key_padding_mask=padding_mask(3, length, "right") if length > 4 else None)
        assert out[1, 0].isnan().any()
        assert out[[0, 2]].isfinite().all() and out[1, 1].isfinite().all()
        spoilt[1, 0, length // 2, 0] = clean
