"""score_images.py: bits per dimension of images whose probabilities are known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from score_images import score

from momentum_fairseq.tasks.image_generation import ImageGenerationConfig, ImageGenerationTask
from tests.image_sets import write_mnist

MEAN, LOG_SCALE = -0.25, -1.5


@pytest.fixture
def task(tmp_path) -> ImageGenerationTask:
    settings = {"valid_images": 5, "skip_checksums": True}
    return ImageGenerationTask.setup_task(ImageGenerationConfig(data=str(write_mnist(tmp_path)), **settings))


def same_logistic(src_tokens: torch.Tensor, **_: Any) -> tuple[torch.Tensor, dict]:
    """A model that predicts the same logistic at every place, whatever it has read: `[B,N]` → `[B,N,3]`."""
    return torch.tensor([0.0, MEAN, LOG_SCALE]).expand(*src_tokens.shape, 3), {}


def bits(images: np.ndarray) -> np.ndarray:
    """−log₂ of the probability of each value of `[n,N]` under that logistic, averaged over an image's values: `[n]`."""
    edges = (np.arange(257) - 0.5) / 127.5 - 1
    below = 1 / (1 + np.exp(-(edges - MEAN) / np.exp(LOG_SCALE)))
    below[[0, -1]] = 0, 1
    return -np.log2(np.diff(below)[images]).mean(1)


@pytest.mark.parametrize(("split", "images"), [("test", 6), ("valid", 5)])
def test_the_score_is_the_mean_over_images_and_its_error_their_deviation_over_the_root_of_how_many(task, split, images):
    found = score(task, same_logistic, split, torch.device("cpu"), batch_size=4)  # the last batch is smaller
    values = np.stack([task.dataset(split)[i]["pixels"] for i in range(images)])
    assert values.shape == (images, 784) and values.max() == 250
    each = bits(values)
    assert (found["split"], found["images"]) == (split, images)
    assert found["bits_per_dim"] == pytest.approx(each.mean(), abs=2e-5)
    assert found["standard_error"] == pytest.approx(each.std(ddof=1) / np.sqrt(images), abs=2e-5)
    assert found["standard_error"] > 1e-3


def test_an_image_that_was_not_scored_is_an_error(task, monkeypatch):
    batches = task.get_batch_iterator

    def lose_the_last(*arguments: Any, **options: Any) -> SimpleNamespace:
        all_batches = list(batches(*arguments, **options).next_epoch_itr(shuffle=False))
        return SimpleNamespace(next_epoch_itr=lambda shuffle: all_batches[:-1])

    monkeypatch.setattr(task, "get_batch_iterator", lose_the_last)
    with pytest.raises(RuntimeError, match="test has 6 images, but 4 were scored"):
        score(task, same_logistic, "test", torch.device("cpu"), batch_size=4)
