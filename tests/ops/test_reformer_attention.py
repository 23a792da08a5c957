"""LSH attention against its definition, one query after the other, and against softmax attention, which it nears."""

import pytest
import torch
import torch.nn.functional as F

from momentum_fairseq.ops import softmax_attention
from momentum_fairseq.ops.reformer_attention import lsh_attention, lsh_cross_attention
from tests.ops.cases import SIDES, assert_same, padding_mask, value_and_gradients

CHUNK = 4


def case(length: int, rounds: int = 2, batch: int = 3, seed: int = 0):
    """q, k, v `[B,2,N,5]` that take gradients, and rotations for up to 80 positions."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(batch, 2, length, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    return *draw, torch.randn(2, rounds, 5, 10, generator=generator, dtype=torch.float64)


def hashes_of(x, rotation, count: int) -> list[int]:
    """The nearest of the directions ±R, of which `count` positions use the first ones; x `[L,D]`, rotation `[D,C]`."""
    columns = -(-count // CHUNK) // 2
    if columns == 0:
        return [0] * len(x)
    projected = x @ rotation[:, :columns]
    return torch.cat([projected, -projected], dim=-1).argmax(-1).tolist()


def naive(q, v, rotations, mask):
    out = torch.zeros_like(v)
    for b, head in torch.cartesian_prod(torch.arange(len(q)), torch.arange(2)).tolist():
        real = [i for i in range(q.shape[2]) if mask is None or not mask[b, i]]
        met = {i: set() for i in real}
        for rotation in rotations[head]:
            hashes = hashes_of(q[b, head, real], rotation, len(real))
            ranked = sorted(range(len(real)), key=lambda i: (hashes[i], i))
            chunk = {i: rank // CHUNK for rank, i in enumerate(ranked)}
            for i in range(len(real)):
                meets = [j for j in chunk if hashes[i] == hashes[j] and chunk[i] - chunk[j] in (0, 1)]
                met[real[i]] |= {real[j] for j in meets}
        for i in real:
            others = sorted(met[i] - {i}) or [i]
            scores = F.normalize(q[b, head, others], dim=-1) @ q[b, head, i] / 5**0.5
            out[b, head, i] = scores.softmax(0) @ v[b, head, others]
    return out


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("length", [1, 7, 33])
def test_self_attention_is_its_definition(length, side):
    q, _, v, rotations = case(length)
    mask = None if side is None else padding_mask(3, length, side)
    ours = value_and_gradients(lambda: lsh_attention(q, v, rotations=rotations, chunk=CHUNK, key_padding_mask=mask), q, v)
    expected = naive(q, v, rotations, mask)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_same(ours, (expected.detach(), *torch.autograd.grad(expected, (q, v), direction)))


def naive_cross(q, k, v, rotations, mask):
    out = torch.zeros_like(v[:, :, :1]).expand(-1, -1, q.shape[2], -1).clone()
    for b, head in torch.cartesian_prod(torch.arange(len(q)), torch.arange(2)).tolist():
        real = [j for j in range(k.shape[2]) if mask is None or not mask[b, j]]
        met = [set() for _ in range(q.shape[2])]
        for rotation in rotations[head]:
            hashes = hashes_of(k[b, head, real], rotation, len(real))
            ranked = sorted(range(len(real)), key=lambda j: (hashes[j], j))
            for i, own in enumerate(hashes_of(q[b, head], rotation, len(real))):
                start, end = (sum(hash_ < bound for hash_ in hashes) for bound in (own, own + 1))
                first = max(0, min((start + end) // 2 - CHUNK, len(real) - 2 * CHUNK))
                met[i] |= {real[j] for j in ranked[first : first + 2 * CHUNK]}
        for i, keys in enumerate(map(sorted, met)):
            scores = F.normalize(k[b, head, keys], dim=-1) @ q[b, head, i] / 5**0.5
            out[b, head, i] = scores.softmax(0) @ v[b, head, keys]
    return out


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("length", [1, 8, 33])
def test_attention_to_another_sequence_is_its_definition(length, side):
    q, _, _, _ = case(6, seed=1)
    _, k, v, rotations = case(length)
    mask = None if side is None else padding_mask(3, length, side)
    options = {"rotations": rotations, "chunk": CHUNK, "key_padding_mask": mask}
    ours = value_and_gradients(lambda: lsh_cross_attention(q, k, v, **options), q, k, v)
    assert_same(ours, value_and_gradients(lambda: naive_cross(q, k, v, rotations, mask), q, k, v))


def test_short_sentences_beside_a_long_one_and_empty_ones_are_read_by_the_definition_too():
    q, k, v, rotations = case(33)
    mask = torch.arange(33) >= torch.tensor([[33], [3], [0]])
    options = {"rotations": rotations, "chunk": CHUNK, "key_padding_mask": mask}
    ours = value_and_gradients(lambda: lsh_cross_attention(q, k, v, **options), q, k, v)
    assert_same(ours, value_and_gradients(lambda: naive_cross(q, k, v, rotations, mask), q, k, v))
    own = lsh_attention(q, v, **options)
    assert_same([own], [naive(q, v, rotations, mask)])
    assert not ours[0][2].any() and not own[2].any()


def errors_by_rounds(attention, expected: torch.Tensor) -> list[float]:
    """Mean squared errors for 1, 2, … rounds, over several draws of the rotations."""
    errors = []
    for rounds in (1, 2, 4, 16):
        draws = [torch.randn(2, rounds, 5, 10, generator=torch.Generator().manual_seed(seed)).double() for seed in range(4)]
        errors.append(sum((attention(rotations) - expected).square().mean().item() for rotations in draws))
    return errors


def test_the_error_of_self_attention_to_softmax_over_the_others_falls_with_the_rounds():
    q, _, v, _ = case(40, batch=2)
    q, v = 3 * q.detach(), v.detach()
    scores = q @ F.normalize(q, dim=-1).transpose(-1, -2) / 5**0.5
    expected = scores.masked_fill(torch.eye(40, dtype=torch.bool), -torch.inf).softmax(-1) @ v
    errors = errors_by_rounds(lambda rotations: lsh_attention(q, v, rotations=rotations, chunk=CHUNK), expected)
    assert all(larger > 1.3 * smaller for larger, smaller in zip(errors, errors[1:], strict=False)), errors


def test_the_error_of_attention_to_another_sequence_falls_with_the_rounds():
    q, k, v, _ = (x.detach() for x in case(40, batch=2))
    q = 3 * q
    expected = softmax_attention(q, F.normalize(k, dim=-1), v)
    errors = errors_by_rounds(lambda rotations: lsh_cross_attention(q, k, v, rotations=rotations, chunk=CHUNK), expected)
    assert all(larger > 1.3 * smaller for larger, smaller in zip(errors, errors[1:], strict=False)), errors


@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_sentence_of_one_chunk_is_read_whole_but_for_the_position_itself(length):
    q, _, v, rotations = case(length)
    scores = q @ F.normalize(q, dim=-1).transpose(-1, -2) / 5**0.5
    expected = scores.masked_fill(torch.eye(length, dtype=torch.bool), -torch.inf).softmax(-1) @ v
    assert_same([lsh_attention(q, v, rotations=rotations, chunk=CHUNK)], [expected])


def test_more_keys_than_it_was_built_for_are_refused():
    q, k, v, rotations = case(90)
    with pytest.raises(ValueError, match="built for at most 84 keys and got 90; raise the maximal length"):
        lsh_attention(q, v, rotations=rotations, chunk=CHUNK)
    with pytest.raises(ValueError, match="built for at most 84 keys and got 90; raise the maximal length"):
        lsh_cross_attention(q, k, v, rotations=rotations, chunk=CHUNK)
