import pytest
import torch

from momentum_fairseq.ops import recurrent_momentum_attention
from tests.ops.cases import assert_same, inputs, padding_mask


def test_three_keys_by_hand():
    """β = ½, γ = 2, k = 1: the weights are γ(1, 1½, 1¾), counted back from the query; the normaliser is the count."""
    ones = torch.ones(1, 1, 3, 1, dtype=torch.float64)
    v = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64).reshape(1, 1, 3, 1)
    out = recurrent_momentum_attention(ones, ones, v, momentum=0.5, step_size=2.0, eps=0.0).flatten()
    assert_same([out], [out.new_tensor([2.0, (3.0 + 20) / 2, (3.5 + 30 + 200) / 3])])


@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.999])
def test_it_is_the_parallel_form_of_equation_13(momentum):
    q, k, v = inputs(9, 9)
    distance = (torch.arange(9).unsqueeze(1) - torch.arange(9)).clamp(min=0)
    weights = (momentum ** torch.arange(9, dtype=torch.float64)).cumsum(0)[distance]
    scores = torch.tril(q @ k.transpose(-1, -2))
    expected = (scores * 0.5 * weights) @ v / (scores.sum(-1, keepdim=True) + 1e-6)
    assert_same([recurrent_momentum_attention(q, k, v, momentum=momentum, step_size=0.5)], [expected])


def test_padding_passes_the_state_unchanged():
    q, k, v = inputs(6, 6)
    mask = padding_mask(3, 6, "both")
    out = recurrent_momentum_attention(q, k, v, momentum=0.9, step_size=1.0, key_padding_mask=mask)
    for row in range(3):
        real = ~mask[row]
        alone = (x[row : row + 1, :, real] for x in (q, k, v))
        assert_same([out[row : row + 1, :, real]], [recurrent_momentum_attention(*alone, momentum=0.9, step_size=1.0)])


def test_it_is_summed_in_the_larger_dtype_of_keys_and_values():
    q, k, v = inputs(6, 6)
    q, k, numbers = q.float(), k.float(), {"momentum": 0.9, "step_size": 1.0}
    expected = recurrent_momentum_attention(q.double(), k.double(), v, **numbers)
    assert torch.equal(recurrent_momentum_attention(q, k, v, **numbers), expected)


def test_gradcheck():
    mask = padding_mask(2, 3, "left")
    beta, gamma = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([0.3, 0.9], [0.5, 2.0]))

    def function(q, k, v, beta, gamma):
        return recurrent_momentum_attention(q, k, v, momentum=beta, step_size=gamma, key_padding_mask=mask)

    assert torch.autograd.gradcheck(function, (*inputs(3, 3, batch=2), beta, gamma))


def test_causal_attention_refuses_other_numbers_of_queries_than_keys():
    with pytest.raises(ValueError, match="N = 3, S = 4"):
        recurrent_momentum_attention(*inputs(3, 4), momentum=0.5, step_size=1.0)
