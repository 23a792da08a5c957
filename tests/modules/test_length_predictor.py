"""The length predictor: classes and lengths there and back, what it reads, what it trains."""

import pytest
import torch

from momentum_fairseq.modules import LengthPredictor


def certain(predictor: LengthPredictor, classes: torch.Tensor) -> torch.Tensor:
    """Logits that are sure of `classes`."""
    return torch.nn.functional.one_hot(classes, 2 * predictor.max_offset + 1).double()


def test_every_offset_comes_back_and_far_ones_are_clamped():
    predictor = LengthPredictor(4, 1, max_offset=20)
    offsets = torch.arange(-30, 31)
    source = torch.full_like(offsets, 50)
    target = source + offsets
    classes = predictor.target(source, target)
    assert classes.tolist() == [min(max(offset, -20), 20) + 20 for offset in offsets.tolist()]
    predicted = predictor.lengths(certain(predictor, classes), source, max_length=100).squeeze(1)
    assert predicted.tolist() == [50 + min(max(offset, -20), 20) for offset in offsets.tolist()]


def test_predicted_lengths_stay_between_one_and_the_longest_allowed():
    predictor = LengthPredictor(4, 1, max_offset=20)
    source = torch.tensor([5, 95])
    logits = certain(predictor, torch.tensor([0, 40]))
    assert predictor.lengths(logits, source, max_length=100).tolist() == [[1], [100]]


def test_a_beam_gives_the_most_probable_lengths_best_first():
    predictor = LengthPredictor(4, 1, max_offset=2)
    logits = torch.tensor([[0.1, 0.5, 0.9, 0.3, 0.7]])
    source = torch.tensor([10])
    assert predictor.lengths(logits, source, 3, max_length=100).tolist() == [[10, 12, 9]]
    assert predictor.lengths(logits, source, 5, max_length=100).tolist() == [[10, 12, 9, 11, 8]]


def test_the_lengths_of_a_beam_differ_where_offsets_are_clamped_to_one_length():
    """Each row gives alone what it gives in the batch; where only two lengths are allowed, the better one comes again."""
    predictor = LengthPredictor(4, 1, max_offset=2)
    logits = torch.tensor([[0.9, 0.7, 0.8, 0.1, 0.2], [0.9, 0.7, 0.8, 0.1, 0.2], [0.2, 0.1, 0.4, 0.5, 0.3]])
    source = torch.tensor([1, 10, 11])
    expected = [[1, 3, 2], [8, 10, 9], [11, 9, 10]]
    assert predictor.lengths(logits, source, 3, max_length=11).tolist() == expected
    for i in range(3):
        assert predictor.lengths(logits[i : i + 1], source[i : i + 1], 3, max_length=11).tolist() == expected[i : i + 1]
    assert predictor.lengths(logits[:1], source[:1], 3, max_length=2).tolist() == [[1, 2, 1]]


def test_of_equally_probable_lengths_the_shortest_goes_first():
    predictor = LengthPredictor(4, 1, max_offset=2)
    logits = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0]])
    assert predictor.lengths(logits, torch.tensor([10]), 5, max_length=100).tolist() == [[9, 11, 12, 8, 10]]
    predictor = LengthPredictor(4, 1, max_offset=20)  # from 17 numbers on torch's sort needn't keep their order
    assert predictor.lengths(torch.zeros(1, 41), torch.tensor([50]), 41, max_length=100).tolist() == [list(range(30, 71))]


def test_a_negative_offset_is_refused():
    with pytest.raises(ValueError, match=r"\(--max-length-offset\) must not be negative, got -1"):
        LengthPredictor(4, 1, max_offset=-1)


def test_more_lengths_than_there_are_are_refused():
    predictor = LengthPredictor(4, 1, max_offset=2)
    with pytest.raises(ValueError, match="--iter-decode-with-beam 6: the model tells 5 lengths apart"):
        predictor.lengths(torch.zeros(1, 5), torch.tensor([10]), 6, max_length=100)


def test_the_logits_are_a_linear_map_of_the_masked_means():
    torch.manual_seed(1)
    predictor = LengthPredictor(3, 2, max_offset=4).double()
    layers = list(torch.randn(2, 2, 5, 3, dtype=torch.float64))
    padding = torch.tensor([[True, True, False, False, False], [False, False, False, False, True]])
    means = [torch.cat([layer[b][~padding[b]].mean(0) for layer in layers]) for b in range(2)]
    expected = torch.stack(means) @ predictor.classifier.weight.T + predictor.classifier.bias
    torch.testing.assert_close(predictor(layers, padding), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("dtype", "count"), [(torch.bfloat16, 257), (torch.float16, 2049)])
def test_positions_are_counted_exactly_in_low_precision(dtype, count):
    """The count is the first integer that the dtype lacks."""
    predictor = LengthPredictor(1, 1, max_offset=0).to(dtype)
    torch.nn.init.ones_(predictor.classifier.weight)
    torch.nn.init.zeros_(predictor.classifier.bias)
    x = torch.ones(1, count, 1, dtype=dtype)
    x[0, 0] = 0
    mean = predictor([x], torch.zeros(1, count, dtype=torch.bool))
    assert torch.equal(mean, torch.tensor([[(count - 1) / count]], dtype=dtype))


@pytest.mark.parametrize("left", [0, 3])
def test_padding_changes_nothing(left):
    torch.manual_seed(1)
    predictor = LengthPredictor(3, 1).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    padding = torch.ones(2, 7, dtype=torch.bool)
    padding[0, left : left + 4] = False
    padding[1] = False
    alone = predictor([x[:1, left : left + 4]], torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(predictor([x], padding)[:1], alone, rtol=1e-12, atol=1e-13)


def test_the_length_loss_trains_the_classifier_alone():
    predictor = LengthPredictor(3, 1)
    x = torch.randn(2, 4, 3, requires_grad=True)
    predictor([x], torch.zeros(2, 4, dtype=torch.bool)).square().sum().backward()
    assert x.grad is None
    assert predictor.classifier.weight.grad.abs().max() > 0


def test_a_row_of_padding_has_finite_logits():
    logits = LengthPredictor(3, 1)([torch.randn(1, 4, 3)], torch.ones(1, 4, dtype=torch.bool))
    assert logits.isfinite().all()
