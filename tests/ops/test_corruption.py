import math
from fractions import Fraction

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from momentum_fairseq.ops import corrupt
from momentum_fairseq.ops.corruption import COPY, REPLACE, SWAP

BOS, PAD, EOS = 0, 1, 2
SPECIAL, ORDINARY = (BOS, PAD, EOS), (4, 1000)
LENGTHS = (12, 1, 7, 0, 30, 2)
WORDS = torch.arange(4, 1000)


def sentences(lengths=LENGTHS, side="right"):
    """BOS, distinct words, EOS; padded. The words are even numbers, so an odd one is a replacement."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.full((len(lengths), max(lengths) + 2), PAD)
    for row, length in zip(tokens, lengths, strict=True):
        words = 100 + 2 * torch.randperm(400, generator=generator)[:length]
        sentence = torch.cat([torch.tensor([BOS]), words, torch.tensor([EOS])])
        start = 0 if side == "right" else len(row) - len(sentence)
        row[start : start + len(sentence)] = sentence
    return tokens


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(tokens, rate, seed=0, ordinary=ORDINARY):
    return corrupt(tokens, rate=rate, special=SPECIAL, ordinary=ordinary, generator=seeded(seed))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_special_tokens_are_never_touched_and_never_produced(rate, side):
    tokens = sentences(side=side)
    special = torch.isin(tokens, torch.tensor(SPECIAL))
    for seed in range(50):
        out = run(tokens, rate, seed)
        assert torch.equal(out[special], tokens[special])
        assert not torch.isin(out[~special], torch.tensor(SPECIAL)).any()
        assert out[~special].ge(4).all() and out.lt(1000).all()


def test_the_input_stays_as_it_was():
    tokens = sentences()
    before = tokens.clone()
    run(tokens, 1.0)
    assert torch.equal(tokens, before)


def test_nothing_is_copied_from_the_host_or_back():
    """A GPU would be waited for: for numbers made into a tensor (lift_fresh), and for those read off one."""
    tokens, seen = sentences(), set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.add(function.overloadpacket)
            return function(*args, **(kwargs or {}))

    with Seen():
        run(tokens, 0.5)
    aten = torch.ops.aten
    assert aten.scatter_ in seen
    assert not seen & {aten.lift_fresh, aten._local_scalar_dense, aten.nonzero}


def test_the_same_generator_gives_the_same_damage():
    tokens = sentences()
    assert torch.equal(run(tokens, 0.5, seed=3), run(tokens, 0.5, seed=3))
    assert not torch.equal(run(tokens, 0.5, seed=3), run(tokens, 0.5, seed=4))


@pytest.mark.parametrize("rate", ["0", "0.1", "0.29", "0.3", "0.57", "0.58", "0.7", "1"])
@pytest.mark.parametrize("length", [1, 2, 10, 50, 100, 200])
def test_the_floor_of_rate_times_length_words_are_damaged(rate, length, monkeypatch):
    """With every damage a replacement by an odd word, each damaged position shows once."""
    monkeypatch.setattr(torch, "randint", only_replacements(torch.randint))
    expected = max(1, math.floor(Fraction(rate) * length))
    tokens = sentences([length])
    for some in (tokens, tokens[:, 1:-1]):  # without special tokens the words are as many as the columns
        assert (run(some, float(rate)) == 999).sum() == expected


def only_replacements(randint):
    def draw(*arguments, **more):
        return torch.full(arguments[-1], REPLACE if len(arguments) == 2 else 999)

    return draw


def test_the_three_kinds_are_equally_frequent():
    count = {COPY: 0, REPLACE: 0, SWAP: 0}
    tokens = sentences([10]).expand(6000, -1).contiguous()
    out = run(tokens, 0.1, ordinary=(4, 5))
    for before, after in zip(tokens.tolist(), out.tolist(), strict=True):
        where = [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y]
        if len(where) == 2:
            assert (after[where[0]], after[where[1]]) == (before[where[1]], before[where[0]])
            count[SWAP] += 1
        elif after[where[0]] == 4:
            count[REPLACE] += where[0] != 10  # the last word is always replaced
        else:
            assert after[where[0]] == before[where[0] - 1]
            count[COPY] += 1
    for number in count.values():
        assert abs(number - 1800) < 150  # 5400 of 6000 have a next word; four standard deviations are 139


def test_positions_are_equally_frequent():
    tokens = sentences([8]).expand(8000, -1).contiguous()
    out = run(tokens, 0.1, ordinary=(4, 5))
    replaced = (out == 4).sum(0)[1:9]
    assert abs(replaced[-1].item() - 1000) < 120
    assert (replaced[:-1] - 1000 / 3).abs().max() < 75


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_word_is_replaced(side):
    tokens = sentences([1, 1, 4], side)
    for seed in range(20):
        out = run(tokens, 0.0, seed, ordinary=(5, 6))
        assert (out[:2] == 5).sum(1).tolist() == [1, 1]


def test_sentences_without_words_stay():
    tokens = sentences([0, 0])
    assert torch.equal(run(tokens, 1.0), tokens)
    empty = torch.zeros(3, 0, dtype=torch.long)
    assert torch.equal(run(empty, 0.5), empty)
    assert run(torch.zeros(0, 5, dtype=torch.long), 0.5).shape == (0, 5)


def test_a_sentence_without_bos_and_eos_is_damaged_too():
    out = run(torch.tensor([[10, 12, 14]]), 1.0, ordinary=(5, 6))
    assert out.shape == (1, 3)
    assert not torch.equal(out, torch.tensor([[10, 12, 14]]))


def test_a_short_sentence_is_damaged_no_more_often_beside_a_long_one():
    """Each of its rounds changes two words at most."""
    tokens = sentences((40, 8))
    for seed in range(50):
        changed = (run(tokens, 0.25, seed) != tokens).sum(1)
        assert changed[0] <= 20 and changed[1] <= 4


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf])
def test_a_rate_outside_0_1_is_refused_by_its_value(rate):
    with pytest.raises(ValueError, match=rf"rate must be in \[0, 1\], got {rate}"):
        run(sentences(), rate)


@pytest.mark.parametrize("ordinary", [(4, 4), (5, 4), (2, 10), (0, 3)])
def test_an_empty_or_special_range_of_words_is_refused_by_its_value(ordinary):
    with pytest.raises(ValueError, match=rf"ordinary words \({ordinary[0]}, {ordinary[1]}\)"):
        run(sentences(), 0.5, ordinary=ordinary)
