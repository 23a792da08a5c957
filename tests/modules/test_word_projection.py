"""The best word of each position, and its score, by blocks and with packed weights, against the plain logits."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from momentum_fairseq.modules import WordProjection, word_projection
from momentum_fairseq.modules.packed_linear import packed_weights


@contextmanager
def plain(model: nn.Module):
    with torch.no_grad():
        yield


@contextmanager
def packed(model: nn.Module):
    with torch.no_grad(), packed_weights(model):
        yield


MODES = [plain, packed]


class Model(nn.Module):
    def __init__(self, vocabulary: int, features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(features, vocabulary, bias=False)
        self.words = WordProjection(self, "projection", 3)


def build(vocabulary: int, features: int = 12) -> tuple[Model, torch.Tensor]:
    """With the weight, multiples of 1/8, so that every order of summing gives the same logits."""
    torch.manual_seed(1)
    model = Model(vocabulary, features).eval()
    with torch.no_grad():
        model.projection.weight.copy_(torch.randint(-40, 40, (vocabulary, features)) / 8)
    return model, model.projection.weight.detach()


def hidden(rows: int, features: int = 12) -> torch.Tensor:
    return torch.randint(-8, 8, (rows, features)) / 8


def use_small_blocks(monkeypatch, logits: int, rows: int, columns: int) -> None:
    for name, value in {"LOGITS": logits, "ROWS": rows, "COLUMNS": columns}.items():
        monkeypatch.setattr(word_projection, name, value)


@pytest.mark.parametrize(
    ("mode", "blocks"),
    [
        (plain, {"logits": 1, "rows": 0, "columns": 0}),
        (plain, {"logits": 100, "rows": 0, "columns": 0}),
        (plain, {"logits": 1 << 20, "rows": 0, "columns": 0}),
        (packed, {"logits": 0, "rows": 1, "columns": 4}),
        (packed, {"logits": 0, "rows": 7, "columns": 43}),
        (packed, {"logits": 0, "rows": 256, "columns": 4096}),
    ],
)
@pytest.mark.parametrize("vocabulary", [4, 44, 64, 128, 200])
def test_the_best_words_are_the_plain_argmax_over_ordinary_words(monkeypatch, vocabulary, blocks, mode):
    use_small_blocks(monkeypatch, **blocks)
    model, weight = build(vocabulary)
    x = hidden(50)
    logits = x @ weight.T
    with mode(model):
        found = model.words.best(x)
    assert found.tolist() == (logits[:, 3:].argmax(-1) + 3).tolist()
    assert (logits.argmax(-1) < 3).any()  # what must not be produced would have been


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("columns", [71, 4096])
def test_of_equal_logits_the_first_word_wins(monkeypatch, columns, mode):
    use_small_blocks(monkeypatch, 1 << 20, 256, columns)
    model, weight = build(300)
    with torch.no_grad():
        model.projection.weight[3:] = weight[3:].roll(1, 0)  # a change after building
        best = model.projection.weight[150].clone()
        for place in (70, 71, 140, 299):
            model.projection.weight[place] = best
    x = 100 * best.unsqueeze(0)
    with mode(model):
        assert model.words.best(x).tolist() == [70]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vocabulary", [44, 128])
@pytest.mark.parametrize("columns", [43, 4096])
def test_scores_are_the_log_softmax_over_all_words(monkeypatch, columns, vocabulary, mode):
    use_small_blocks(monkeypatch, 200, 4, columns)
    model, weight = build(vocabulary)
    x, chosen = hidden(vocabulary), torch.arange(vocabulary)
    with mode(model):
        found = model.words.scores(x, chosen)
    expected = torch.log_softmax(x @ weight.T, -1).gather(1, chosen.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_scores_of_half_precision_logits_are_summed_in_float32():
    model, _ = build(200)
    model.bfloat16()
    x, chosen = hidden(9).bfloat16(), torch.arange(9)
    with torch.no_grad():
        expected = model.projection(x).float().log_softmax(-1).gather(1, chosen.unsqueeze(1)).squeeze(1)
        found = model.words.scores(x, chosen)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_no_positions_have_no_words(mode):
    model, _ = build(44)
    with mode(model):
        assert model.words.best(hidden(0)).shape == model.words.scores(hidden(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("mode", MODES)
def test_a_row_with_nan_gives_a_word_whatever_its_block(monkeypatch, mode):
    use_small_blocks(monkeypatch, 1 << 20, 256, 40)
    model, _ = build(128)
    with torch.no_grad():
        model.projection.weight[[50, 100], 0] = torch.nan
    with mode(model):
        assert model.words.best(hidden(3)).tolist() == [50, 50, 50]


def test_it_has_no_parameters_of_its_own():
    model, _ = build(44)
    assert list(model.words.parameters()) == [] and model.words.state_dict() == {}
