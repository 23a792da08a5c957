"""Nyström attention against its formula, and against softmax attention, which it nears."""

import pytest
import torch

from momentum_fairseq.ops import softmax_attention
from momentum_fairseq.ops.nystrom_attention import iterative_pseudo_inverse, nystrom_attention
from tests.ops.cases import SIDES, assert_same, padding_mask, value_and_gradients


def case(length: int, batch: int = 3):
    """q, k, v `[B,2,N,5]` that take gradients; q is near k, which keeps the matrices to invert far from singular."""
    generator = torch.Generator().manual_seed(0)
    noise, k, v = torch.randn(3, batch, 2, length, 5, generator=generator, dtype=torch.float64)
    return tuple(x.requires_grad_() for x in (2 * k + 0.3 * noise, 2 * k, v))


def segments(x: torch.Tensor, landmarks: int) -> torch.Tensor:
    """The means of segments of x `[H,L,D]`."""
    count = x.shape[1]
    used = min(landmarks, count)
    own = [[p for p in range(count) if p * used // count == s] for s in range(used)]
    assert max(map(len, own)) - min(map(len, own)) <= 1
    return torch.stack([x[:, positions].mean(1) for positions in own], dim=1)


def naive(q, k, v, landmarks: int, mask, self_attention: bool):
    """The formula with torch's pseudo-inverse, for each sentence without its padding; zeros at padding."""

    def kernel(a, b):
        return (a @ b.transpose(-1, -2) / 5**0.5).softmax(-1)

    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    for b in range(len(q)):
        real = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else ~mask[b]
        keys, values = k[b][:, real], v[b][:, real]
        queries = q[b][:, real] if self_attention else q[b]
        key_landmarks = segments(keys, landmarks)
        query_landmarks = segments(queries, landmarks) if self_attention else key_landmarks
        inverse = torch.linalg.pinv(kernel(query_landmarks, key_landmarks))
        read = kernel(queries, key_landmarks) @ inverse @ kernel(query_landmarks, keys) @ values
        out[b][:, real if self_attention else slice(None)] = read
    return out


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("length", [1, 7, 63, 65])
@pytest.mark.parametrize("self_attention", [False, True])
def test_it_is_its_formula_with_an_exact_inverse(length, side, self_attention):
    """Sentences shorter than the landmarks, in one batch with longer ones, have as many as they have positions."""
    q, k, v = case(length)
    mask = None if side is None else padding_mask(3, length, side)

    def ours():
        options = {"self_attention": self_attention, "key_padding_mask": mask, "iterations": 25}
        out = nystrom_attention(q, k, v, 6, **options)
        return out if mask is None or not self_attention else out.masked_fill(mask[:, None, :, None], 0)

    theirs = value_and_gradients(lambda: naive(q, k, v, 6, mask, self_attention), q, k, v)
    assert_same(value_and_gradients(ours, q, k, v), theirs, tolerance=1e-6)


def test_the_iteration_nears_the_inverse_of_each_matrix_by_itself():
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64).mul(2).softmax(-1)
    exact = torch.linalg.inv(kernels)
    errors = [(iterative_pseudo_inverse(kernels, n) - exact).norm().item() for n in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6 * exact.norm(), errors
    alone = torch.stack([torch.stack([iterative_pseudo_inverse(kernel, 6) for kernel in row]) for row in kernels])
    assert_same([iterative_pseudo_inverse(kernels, 6)], [alone])


def test_the_inverse_takes_the_papers_six_iterations():
    """With two landmarks of one head, written out; the exact inverse is still far."""
    q, k, v = (x.detach() for x in case(2, batch=1))
    scores = (0.2 * k @ (0.2 * k).transpose(-1, -2) / 5**0.5).softmax(-1)
    for head in range(2):
        kernel, one = scores[0, head], torch.eye(2, dtype=torch.float64)
        inverse = kernel.T / (kernel.sum(0).max() * kernel.sum(1).max())
        for _ in range(6):
            product = kernel @ inverse
            inverse = inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
        assert (inverse @ kernel - one).norm() > 1e-3
        ours = nystrom_attention(0.2 * k, 0.2 * k, v, 2, self_attention=True)[0, head]
        torch.testing.assert_close(ours, kernel @ inverse @ kernel @ v[0, head], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("self_attention", [False, True])
def test_the_error_to_softmax_attention_falls_with_the_landmarks(self_attention):
    """On sequences that change slowly, as means of segments suppose."""
    generator = torch.Generator().manual_seed(0)
    noise, k, v = torch.randn(3, 8, 2, 32, 5, generator=generator, dtype=torch.float64).cumsum(-2) / 4
    q, mask = k + 0.1 * noise, padding_mask(8, 32, "both")
    expected = softmax_attention(q, k, v, key_padding_mask=mask).masked_fill(mask[:, None, :, None], 0)
    errors = []
    for landmarks in (2, 4, 8, 16):
        options = {"self_attention": self_attention, "key_padding_mask": mask, "iterations": 20}
        out = nystrom_attention(q, k, v, landmarks, **options).masked_fill(mask[:, None, :, None], 0)
        errors.append((out - expected).square().mean().item())
    assert all(larger > 2 * smaller for larger, smaller in zip(errors, errors[1:], strict=False)), errors


def test_with_a_landmark_for_each_key_queries_of_another_sequence_get_softmax_attention():
    q, k, v = case(7)
    out = nystrom_attention(q[:, :, :3], k, v, 64, self_attention=False, iterations=30)
    assert_same([out], [softmax_attention(q[:, :, :3], k, v)], tolerance=1e-8)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_padding_may_hold_anything(which, number):
    mask = padding_mask(3, 9, "both")
    tensors, real = [x.detach().clone() for x in case(9)], ~mask
    expected = nystrom_attention(*tensors, 4, self_attention=True, key_padding_mask=mask)
    tensors[which].transpose(1, 2)[mask] = number
    out = nystrom_attention(*tensors, 4, self_attention=True, key_padding_mask=mask)
    assert torch.equal(out.transpose(1, 2)[real], expected.transpose(1, 2)[real])


@pytest.mark.parametrize("self_attention", [False, True])
def test_landmarks_that_a_short_sentence_does_not_use_change_nothing(self_attention):
    q, k, v = case(3)
    few, many = (nystrom_attention(q, k, v, landmarks, self_attention=self_attention) for landmarks in (3, 64))
    assert_same([many], [few])


def test_self_attention_takes_a_query_for_each_key():
    q, k, v = case(7)
    with pytest.raises(ValueError, match="queries and keys of the same positions, got N = 3, S = 7"):
        nystrom_attention(q[:, :, :3], k, v, 4, self_attention=True)


def test_queries_of_another_sequence_do_not_read_one_another():
    q, k, v = case(9)
    whole = nystrom_attention(q, k, v, 4, self_attention=False)
    assert_same([nystrom_attention(q[:, :, 2:5], k, v, 4, self_attention=False)], [whole[:, :, 2:5]])
