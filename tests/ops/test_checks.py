import pytest
import torch

from momentum_fairseq.ops import linear_attention, momentum_attention, recurrent_momentum_attention, softmax_attention
from tests.ops.cases import inputs

NUMBERS = {"momentum": 0.5, "step_size": 1.0}
ATTENTIONS = {
    "softmax": softmax_attention,
    "linear": linear_attention,
    "momentum": lambda q, k, v, **more: momentum_attention(q, k, v, **NUMBERS, **more),
    "recurrent": lambda q, k, v, **more: recurrent_momentum_attention(q, k, v, **NUMBERS, **more),
}


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
