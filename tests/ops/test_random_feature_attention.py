"""Random feature attention against its formula, and against softmax attention over unit vectors."""

import pytest
import torch
import torch.nn.functional as F

from momentum_fairseq.ops import softmax_attention
from momentum_fairseq.ops.performer_attention import orthogonal_directions
from momentum_fairseq.ops.random_feature_attention import (
    causal_random_feature_attention,
    random_feature_attention,
    trigonometric_features,
)
from tests.ops.cases import LENGTHS, SIDES, assert_same, padding_mask, value_and_gradients


def case(length: int, features: int = 16, seed: int = 0):
    """q, k, v `[3,2,N,4]` that take gradients, and directions `[2,F,4]`."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(3, 2, length, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3))
    return q, k, v, orthogonal_directions(2, features, 4, generator).double()


def naive(q, k, v, omega, mask, causal: bool):
    """The formula, one query and key after the other."""

    def phi(x, head):
        angles = [w @ (x / x.norm()) for w in omega[head]]
        return torch.stack([angle.sin() for angle in angles] + [angle.cos() for angle in angles]) / len(angles) ** 0.5

    rows = []
    for b, head, i in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        total, values = torch.zeros((), dtype=torch.float64), torch.zeros_like(v[b, head, 0])
        for j in range(i + 1 if causal else k.shape[2]):
            if mask is None or not mask[b, j]:
                weight = phi(q[b, head, i], head) @ phi(k[b, head, j], head)
                total, values = total + weight, values + weight * v[b, head, j]
        rows.append(values / total.clamp(min=0.1))
    return torch.stack(rows).view_as(v)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", [None, *SIDES])
def test_it_is_its_formula(side, causal):
    q, k, v, omega = case(5, features=4)
    mask = None if side is None else padding_mask(3, 5, side)

    def ours():
        features = trigonometric_features(q, omega), trigonometric_features(k, omega)
        if causal:
            return causal_random_feature_attention(*features, v, key_padding_mask=mask)[0]
        return random_feature_attention(*features, v, key_padding_mask=mask)

    theirs = value_and_gradients(lambda: naive(q, k, v, omega, mask, causal), q, k, v)
    assert_same(value_and_gradients(ours, q, k, v), theirs)


@pytest.mark.parametrize("length", [*LENGTHS, 200])
def test_the_causal_form_at_its_last_position_is_the_other_one_and_goes_on_from_a_state(length):
    q, k, v, omega = case(length)
    q, k = trigonometric_features(q, omega), trigonometric_features(k, omega)
    whole, _ = causal_random_feature_attention(q, k, v)
    assert_same([whole[:, :, -1]], [random_feature_attention(q, k, v)[:, :, -1]])
    half, state = length // 2, None
    if half:
        first, state = causal_random_feature_attention(q[:, :, :half], k[:, :, :half], v[:, :, :half])
        assert_same([first], [whole[:, :, :half]])
    rest, _ = causal_random_feature_attention(q[:, :, half:], k[:, :, half:], v[:, :, half:], state=state)
    assert_same([rest], [whole[:, :, half:]])


def test_the_error_to_softmax_attention_over_unit_vectors_falls_with_the_features():
    q, k, v, _ = case(40)
    mask = padding_mask(3, 40, "left")
    unit_q, unit_k = 2 * F.normalize(q, dim=-1), F.normalize(k, dim=-1)  # 2 = √D, which softmax attention divides by
    expected = softmax_attention(unit_q, unit_k, v, key_padding_mask=mask)
    errors = []
    for features in (4, 32, 256, 2048):
        error = 0.0
        for seed in range(8):
            omega = orthogonal_directions(2, features, 4, torch.Generator().manual_seed(seed)).double()
            mapped = trigonometric_features(q, omega), trigonometric_features(k, omega)
            error += (random_feature_attention(*mapped, v, key_padding_mask=mask) - expected).square().mean().item()
        errors.append(error)
    assert all(larger > 3 * smaller for larger, smaller in zip(errors, errors[1:], strict=False)), errors


def test_a_normaliser_that_is_negative_by_its_error_is_not_divided_by():
    q, k, v = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[-1e-3, 1.0]]]]), torch.ones(1, 1, 1, 1)
    assert random_feature_attention(q, k, v).item() == pytest.approx(-1e-3 / 0.1)
