"""The task of images: sequences of pixels that start from nothing, subsets that don't overlap, bits per dimension."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.logging import metrics

from momentum_fairseq.criterions.logistic_mixture_loss import LogisticMixtureLoss
from momentum_fairseq.data import read_cifar10, read_mnist
from momentum_fairseq.models.momentum_lm import MomentumLmConfig, MomentumLmModel
from momentum_fairseq.ops.logistic_mixture import logistic_mixture_log_prob
from momentum_fairseq.tasks.copy_task import CopyTask, CopyTaskConfig
from momentum_fairseq.tasks.image_generation import ImageGenerationConfig, ImageGenerationTask
from tests.image_sets import write_cifar10, write_mnist

EOS = 2


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("images") / "mnist")


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar10(tmp_path_factory.mktemp("images") / "cifar10")


def build(data: Path | None, **values: Any) -> ImageGenerationTask:
    defaults = {"data": None if data is None else str(data), "valid_images": 7, "skip_checksums": True}
    return ImageGenerationTask.setup_task(ImageGenerationConfig(**{**defaults, **values}))


def build_model(task: ImageGenerationTask, **values: Any) -> MomentumLmModel:
    torch.manual_seed(1)
    size = {"embed_dim": 12, "ffn_dim": 16, "layers": 1, "heads": 2, "dropout": 0.0, "mixture_components": 10}
    limits = {"max_source_positions": 784, "max_target_positions": 784, "tokens_per_sample": 784}
    return MomentumLmModel(MomentumLmConfig(**{**size, **limits, **values}), task.dictionary, task.dictionary).eval()


def pixels(task: ImageGenerationTask, split: str) -> set[bytes]:
    task.load_dataset(split)
    return {row.tobytes() for row in task.dataset(split).pixels}


def test_the_model_reads_all_pixels_but_the_last_and_predicts_every_one_from_the_first(mnist):
    task = build(mnist)
    task.load_dataset("test")
    batch = task.dataset("test").collater([task.dataset("test")[i] for i in (4, 0)])
    images, source = task.dataset("test").pixels[[4, 0]], batch["net_input"]["src_tokens"]
    assert torch.equal(task.values(batch["target"]), torch.from_numpy(images).long())
    assert (source[:, 0] == EOS).all() and torch.equal(source[:, 1:], batch["target"][:, :-1])
    assert batch["ntokens"] == 2 * 784 and batch["id"].tolist() == [4, 0]
    assert torch.equal(task.tokens(torch.from_numpy(images)), batch["target"])
    assert task.dictionary[int(batch["target"][0, 0])] == str(images[0, 0])


def test_colours_of_a_pixel_follow_one_another_row_by_row(cifar10):
    task = build(cifar10, images="cifar10", valid_images=5)
    found = pixels(task, "test")
    images, _, _ = read_cifar10(cifar10, "test", verify=False)
    assert task.pixels == 3072 and found == {image.reshape(-1).tobytes() for image in images}
    first = np.frombuffer(min(found), np.uint8)
    assert any(np.array_equal(first[:6], image[0, :2].reshape(-1)) for image in images)


def test_training_and_held_out_images_are_the_published_training_set_apart(mnist):
    task = build(mnist)
    train, valid, test = (pixels(task, split) for split in ("train", "valid", "test"))
    published = {image.tobytes() for image in read_mnist(mnist, "train", verify=False)[0]}
    assert train | valid == published and not train & valid and (len(train), len(valid), len(test)) == (17, 7, 6)
    assert test == {image.tobytes() for image in read_mnist(mnist, "test", verify=False)[0]}
    assert pixels(build(mnist), "valid") == valid


def test_the_same_images_are_held_out_wherever_a_training_runs(mnist):
    published = read_mnist(mnist, "train", verify=False)[0][[12, 22, 7, 18, 5, 17, 15]]
    assert pixels(build(mnist), "valid") == {image.tobytes() for image in published}


def test_scored_images_are_some_of_the_held_out_and_test_images_and_leave_training_alone(mnist):
    all_of, some_of = build(mnist), build(mnist, scored_images=3)
    for split in ("valid", "test"):
        assert len(pixels(some_of, split)) == 3 and pixels(some_of, split) < pixels(all_of, split)
    assert pixels(some_of, "train") == pixels(all_of, "train")


def test_every_image_is_in_some_batch(mnist):
    task = build(mnist)
    task.load_dataset("train")
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=8, required_batch_size_multiple=8)
    assert sorted(i for b in iterator.next_epoch_itr() for i in b["id"].tolist()) == list(range(17))
    assert task.dataset("train").collater([]) == {}


def test_the_loss_is_the_mixtures_log_probability_and_is_logged_in_bits_per_dimension(mnist):
    task = build(mnist)
    task.load_dataset("test")
    batch = task.dataset("test").collater([task.dataset("test")[i] for i in range(3)])
    model = build_model(task)
    loss, size, logged = LogisticMixtureLoss(task)(model, batch)
    parameters, _ = model(batch["net_input"]["src_tokens"])
    expected = -logistic_mixture_log_prob(parameters, task.values(batch["target"])).sum()
    assert size == logged["sample_size"] == 3 * 784 and loss.item() == pytest.approx(expected.item(), rel=1e-6)
    with metrics.aggregate() as found:
        LogisticMixtureLoss.reduce_metrics([logged, logged])
        LogisticMixtureLoss.reduce_metrics([])
    assert found.get_smoothed_value("loss") == pytest.approx(expected.item() / size / math.log(2), abs=1e-4)
    assert 6 < found.get_smoothed_value("loss") < 9  # at first all values are about equally probable


def test_bits_per_dimension_are_the_mean_over_pixels_however_they_are_batched():
    with metrics.aggregate() as found:
        for nats, count in ((100.0, 50), (900.0, 150)):
            LogisticMixtureLoss.reduce_metrics([{"loss": nats, "ntokens": count}])
    assert found.get_smoothed_value("loss") == pytest.approx(1000 / 200 / math.log(2), abs=1e-4)


def test_the_first_pixel_is_predicted_from_nothing_and_no_pixel_from_itself_or_later_ones(mnist):
    task = build(mnist)
    task.load_dataset("test")
    batch = task.dataset("test").collater([task.dataset("test")[0]])
    model = build_model(task, connection="adaptive").double()
    source = batch["net_input"]["src_tokens"]
    changed = source.clone()
    changed[:, 400:] = task.tokens(255 - task.values(changed[:, 400:]))
    difference = (model(changed)[0] - model(source)[0]).abs().amax(-1)[0]
    assert (difference[:400] == 0).all() and difference[400] > 0
    assert torch.equal(source[:, :1], torch.tensor([[EOS]]))


def test_a_model_that_predicts_words_is_refused_by_the_loss(mnist):
    task = build(mnist)
    task.load_dataset("test")
    batch = task.dataset("test").collater([task.dataset("test")[0]])
    with pytest.raises(ValueError, match="260 parameters a pixel are no triples .give the model --mixture-components."):
        LogisticMixtureLoss(task)(build_model(task, mixture_components=0), batch)


def test_a_mixture_is_refused_by_losses_of_words(mnist):
    task = build(mnist)
    task.load_dataset("test")
    batch = task.dataset("test").collater([task.dataset("test")[0]])
    with pytest.raises(ValueError, match="predicts no words: train it by --criterion logistic_mixture_loss"):
        CrossEntropyCriterion(task, sentence_avg=False)(build_model(task), batch)


def test_the_loss_of_a_mixture_is_refused_where_words_are_predicted():
    """15 words would pass for the parameters of five logistics."""
    with pytest.raises(ValueError, match="logistic_mixture_loss is of pixels: it needs --task image_generation, not CopyTask"):
        LogisticMixtureLoss(CopyTask.setup_task(CopyTaskConfig(seed=1, train_subset="train")))


def test_means_over_images_are_refused(mnist):
    with pytest.raises(ValueError, match="--sentence-avg: the means of logistic_mixture_loss are over pixels"):
        LogisticMixtureLoss(build(mnist), sentence_avg=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"valid_images": 0}, "--valid-images must be at least 1, got 0"),
        ({"scored_images": -1}, "--scored-images must be at least 0, got -1"),
        ({"tokens_per_sample": 100}, "--tokens-per-sample 100 is less than the 784 of mnist"),
        ({"images": "cifar10", "tokens_per_sample": 784}, "--tokens-per-sample 784 is less than the 3072 of cifar10"),
    ],
)
def test_options_out_of_range_are_refused(mnist, values, message):
    with pytest.raises(ValueError, match=message):
        build(mnist, **values)


def test_data_that_does_not_fit_is_refused(mnist, tmp_path):
    with pytest.raises(ValueError, match="no subset 'dev' of images; choose from train, valid, test"):
        build(mnist).load_dataset("dev")
    with pytest.raises(ValueError, match="--valid-images 24 leaves nothing of 24 images"):
        build(mnist, valid_images=24).load_dataset("train")
    with pytest.raises(ValueError, match="the MD5 checksum is .* --skip-checksums"):
        build(mnist, skip_checksums=False).load_dataset("train")
    with pytest.raises(FileNotFoundError, match="no folder of images given"):
        build(None).load_dataset("train")
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte"):
        build(tmp_path).load_dataset("train")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixture_components": -1}, "--mixture-components must not be negative, got -1"),
        ({"share_all_embeddings": True}, "--mixture-components predicts no words"),
        ({"share_decoder_input_output_embed": True}, "--mixture-components predicts no words"),
    ],
)
def test_a_mixture_that_no_model_can_have_is_refused(mnist, values, message):
    with pytest.raises(ValueError, match=message):
        build_model(build(mnist), **values)
