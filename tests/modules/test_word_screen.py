"""The screen in bfloat16 against the plain argmax in float64: what it rules out is never the best word."""

import pytest
import torch
from torch import nn

from momentum_fairseq.modules import WordProjection, word_screen
from momentum_fairseq.modules.packed_linear import HAS_ONEDNN, packed_weights
from momentum_fairseq.modules.word_screen import can_screen, screened_argmax

MULTIPLIES_BFLOAT16 = HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
pytestmark = pytest.mark.skipif(not MULTIPLIES_BFLOAT16, reason="oneDNN multiplies no bfloat16 numbers here")

SYMBOLS = 3


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def best(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (hidden.double() @ weight.double().T)[:, SYMBOLS:].argmax(1) + SYMBOLS


def screened(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return screened_argmax(hidden, weight, word_screen.word_screen(weight, SYMBOLS))


@pytest.mark.parametrize("columns", [64, 4096])
@pytest.mark.parametrize("words", [16, 100, 1000, 4097])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_it_finds_the_best_word(monkeypatch, words, columns, scale):
    monkeypatch.setattr(word_screen, "COLUMNS", columns)
    hidden, weight = scale * draw(60, 37), draw(words, 37, seed=1) * draw(words, 1, seed=2)
    assert screened(hidden, weight).tolist() == best(hidden, weight).tolist()


def test_words_that_bfloat16_cannot_tell_apart_are_told_apart():
    hidden, weight = draw(300, 64), draw(2000, 64, seed=1)
    leaders = best(hidden, weight)
    # Beside each row's best word, in another group, one that is better by far less than bfloat16 resolves.
    others = (leaders + 701) % 2000
    others = torch.where(others < SYMBOLS, others + SYMBOLS, others)
    weight[others] = weight[leaders] + 3e-4 * hidden / hidden.norm(dim=1, keepdim=True)
    expected = best(hidden, weight)
    rounded = (hidden.bfloat16() @ weight.bfloat16().T)[:, SYMBOLS:].argmax(1) + SYMBOLS
    assert (rounded != expected).sum() > 50
    assert torch.equal(screened(hidden, weight), expected)


def test_what_rounding_the_factors_loses_is_counted_where_large_products_cancel():
    hidden, weight = torch.ones(1, 64), torch.full((200, 64), -1.0)
    weight[50, :32], weight[60, :32] = 1 + 0.9 * 2**-9, 1.0  # the first rounds to 1, and loses 0.056 of 0.056
    weight[60, :4] = 1 + 2**-7  # rounds to itself: 0.031
    assert hidden.bfloat16() @ weight[50].bfloat16() < hidden.bfloat16() @ weight[60].bfloat16()
    assert screened(hidden, weight).tolist() == best(hidden, weight).tolist() == [50]


def test_what_rounding_loses_is_counted_where_every_factor_is_rounded_as_far_as_can_be_and_to_the_same_side():
    below, above = 1 + 2**-8 - 2**-12, 1 + 2**-8 + 2**-12  # beside the middle between two numbers of bfloat16
    halves = torch.tensor([below, above]).repeat_interleave(256)
    hidden, weight = halves.unsqueeze(0), 1e-3 * draw(4096, 512)
    weight[100] = halves * torch.tensor([1.0, -1.0]).repeat_interleave(256)
    weight[200] = -weight[100]
    weight[100, 0] += 4
    weight[200, 0] += 1
    assert hidden.bfloat16().float() @ weight[100].bfloat16().float() < hidden.bfloat16().float() @ weight[200].bfloat16().float()
    assert screened(hidden, weight).tolist() == best(hidden, weight).tolist() == [100]


def test_what_rounding_a_sum_loses_is_counted():
    """257.0035 is summed up to 257, which rounds to 256; 257.0011 to 257.002, which rounds to 258."""
    hidden, weight = torch.ones(1, 5), torch.zeros(200, 5)
    weight[[50, 60], 0] = 256
    weight[50, 1:] = 0.25 + 0.9 * 2**-10
    weight[60, 1:] = torch.tensor([0.25 + 1.1 * 2**-10, 0.25, 0.25, 0.25])
    assert (hidden.bfloat16() @ weight[[50, 60]].bfloat16().T).tolist() == [[256, 258]]
    assert screened(hidden, weight).tolist() == best(hidden, weight).tolist() == [50]


def test_what_fills_up_the_last_words_is_not_among_them():
    hidden, weight = draw(20, 24).abs(), -draw(1000, 24, seed=1).abs()  # 8 words of zeros would score best
    assert torch.equal(screened(hidden, weight), best(hidden, weight))


def test_of_equal_words_the_first_wins():
    weight = (8 * draw(500, 24)).round() / 8
    weight[[77, 78, 94, 300, 499]] = weight[77].clone()
    assert screened(10 * weight[77:78], weight).tolist() == [77]


def test_symbols_are_left_out_even_where_they_score_best():
    hidden, weight = draw(40, 24), draw(500, 24, seed=1)
    weight[:SYMBOLS] = 10 * hidden[:SYMBOLS]
    assert (hidden @ weight.T).argmax(1)[:SYMBOLS].tolist() == [0, 1, 2]
    assert torch.equal(screened(hidden, weight), best(hidden, weight))


@pytest.mark.parametrize("row", [torch.zeros(24), torch.full((24,), torch.nan), torch.full((24,), torch.inf)])
def test_rows_that_it_cannot_tell_are_named_and_the_others_found(row):
    hidden, weight = draw(5, 24), draw(1000, 24, seed=1)
    hidden[2] = row
    expected = best(hidden, weight)
    expected[2] = 1000
    assert torch.equal(screened(hidden, weight), expected)


def test_no_rows_have_no_words():
    assert screened(draw(0, 24), draw(100, 24)).shape == (0,)


@pytest.mark.parametrize("rows", [0, 1, 40])
def test_the_projection_screens_and_settles_what_the_screen_leaves(monkeypatch, rows):
    monkeypatch.setattr("momentum_fairseq.modules.word_projection.can_screen", lambda weight, bias: True)
    torch.manual_seed(0)
    owner = nn.ModuleList([nn.Linear(24, 1000, bias=False)])
    words, hidden = WordProjection(owner, "0", SYMBOLS).eval(), draw(rows, 24)
    hidden[:1] = 0  # all words are equal
    with torch.no_grad(), packed_weights(words):
        assert words.packed.screen is not None
        found, scores = words.best(hidden), words.scores(hidden, torch.full((rows,), 7))
    assert torch.equal(found, best(hidden, owner[0].weight.detach()))
    expected = torch.log_softmax(owner[0](hidden), dim=1)[:, 7]
    torch.testing.assert_close(scores, expected.detach(), rtol=1e-5, atol=1e-5)


def test_small_vocabularies_biases_and_other_dtypes_are_not_screened():
    weight = torch.zeros(1 << 14, 64)
    assert can_screen(weight, None) == torch.cpu._is_avx512_bf16_supported()
    assert not can_screen(weight, torch.zeros(1 << 14))
    assert not can_screen(weight.double(), None)
    assert not can_screen(weight[:100], None)
