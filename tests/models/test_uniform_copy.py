"""Decoder 1's input: the uniformly copied source, with padding on either side."""

import math

import pytest
import torch
from torch import Tensor

from momentum_fairseq.models.nat_decoder import uniform_copy
from momentum_fairseq.models.nat_encoder import EncoderOutput
from tests.models.sentences import EOS, PAD, pad, sources


def encoded(tokens: Tensor) -> EncoderOutput:
    """An encoder output whose embedding at each place is the token and the place."""
    padding = tokens.eq(PAD)
    place = torch.arange(tokens.shape[1]).expand_as(tokens)
    embedding = torch.stack([tokens, place], dim=-1).double()
    return EncoderOutput([], embedding, padding, (~padding & tokens.ne(EOS)).sum(1), [])


@pytest.mark.parametrize("left", [False, True])
def test_uniform_copy_is_its_formula_on_either_padding_side(left):
    """Position i copies source word round(i (S−1)/(T−1)), the first one where T = 1."""
    pairs = [(s, t) for s in (1, 2, 3, 7, 10) for t in (1, 2, 3, 4, 7, 9, 40)]
    sentences = sources(*[s for s, _ in pairs])
    copied = uniform_copy(encoded(pad(sentences, 14, left)), torch.tensor([t for _, t in pairs]), 40)
    for row, sentence, (s, t) in zip(copied, sentences, pairs, strict=True):
        expected = [sentence[math.floor(i * (s - 1) / (t - 1) + 0.5) if t > 1 else 0].item() for i in range(t)]
        assert row[:t, 0].tolist() == expected, (s, t)


def test_uniform_copy_reads_the_first_and_the_last_word_and_never_eos_or_padding():
    sentences = sources(5, 1, 9)
    copied = uniform_copy(encoded(pad(sentences, 12, left=True)), torch.tensor([8, 8, 3]), 8)[..., 0]
    assert not torch.isin(copied, torch.tensor([PAD, EOS], dtype=torch.float64)).any()
    for row, sentence, t in zip(copied, sentences, (8, 8, 3), strict=True):
        assert [row[0].item(), row[t - 1].item()] == [sentence[0].item(), sentence[-2].item()]


def test_uniform_copy_of_a_source_without_words_is_defined():
    copied = uniform_copy(encoded(torch.tensor([[PAD, PAD, EOS]])), torch.tensor([3]), 3)
    assert copied[0, :, 0].tolist() == [EOS] * 3
