"""The loss and the accuracy of classification, counted over examples however they are batched."""

from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from momentum_fairseq.criterions.classification_loss import ClassificationLoss

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0], [0.5, 0.0, 0.0], [0.0, 4.0, 0.0], [1.0, 2.0, 0.0]])
TARGETS = torch.tensor([0, 2, 1, 1, 0])  # the third and the fifth are wrong


def sample(start: int, end: int) -> dict[str, Any]:
    return {"net_input": {"rows": slice(start, end)}, "target": TARGETS[start:end], "ntokens": 7 * (end - start)}


def model(rows: slice) -> dict[str, torch.Tensor]:
    return {"logits": LOGITS[rows]}


def criterion() -> ClassificationLoss:
    return ClassificationLoss(task=None)


def log_p() -> torch.Tensor:
    return LOGITS.log_softmax(-1)[torch.arange(5), TARGETS]


def test_the_loss_is_summed_over_the_examples_which_are_the_sample_size():
    loss, size, logged = criterion()(model, sample(0, 5))
    assert loss.item() == pytest.approx(-log_p().sum().item())
    assert (size, logged["examples"], int(logged["correct"]), logged["ntokens"]) == (5, 5, 3, 35)


@pytest.mark.parametrize("cuts", [[0, 5], [0, 4, 5], [0, 1, 2, 5]])
def test_means_are_over_the_examples_however_they_are_batched(cuts):
    with metrics.aggregate() as found:
        for start, end in zip(cuts, cuts[1:], strict=False):
            ClassificationLoss.reduce_metrics([criterion()(model, sample(start, end))[2]])
    values = found.get_smoothed_values()
    assert (values["correct"], values["examples"], values["accuracy"]) == (3, 5, 60.0)
    assert values["loss"] == pytest.approx(-log_p().mean().item(), abs=1e-4)


def test_workers_add_up_and_one_without_examples_changes_nothing():
    first, second = (criterion()(model, sample(*span))[2] for span in ((0, 3), (3, 5)))
    empty = {key: value * 0 for key, value in first.items()}
    with metrics.aggregate() as found:
        ClassificationLoss.reduce_metrics([first, second, empty])
        ClassificationLoss.reduce_metrics([empty])
    assert found.get_smoothed_values()["accuracy"] == 60.0
    assert ClassificationLoss.logging_outputs_can_be_summed()


def test_the_loss_of_half_precision_is_taken_in_float32():
    loss, _, _ = criterion()(lambda rows: {"logits": LOGITS.half()}, sample(0, 5))
    assert loss.dtype == torch.float32


def test_a_model_that_predicts_words_is_refused():
    with pytest.raises(ValueError, match="classification_loss needs a model that predicts classes: --task lra"):
        criterion()(lambda rows: (LOGITS[rows], None), sample(0, 5))
