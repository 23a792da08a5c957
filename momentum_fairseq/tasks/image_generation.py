"""`image_generation`: a language model draws an image pixel by pixel (Katharopoulos et al., ICML 2020, section 4.2)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from torch import Tensor

from momentum_fairseq.data import read_cifar10, read_mnist
from momentum_fairseq.tasks.every_example import EveryExampleTask

VALUES = 256
SPLIT_SEED = 20200629  # of the held-out images, the same whatever the training's seed

logger = logging.getLogger(__name__)


class ImageSet(NamedTuple):
    """Images that the task knows.

    shape: height, width and colours. read: folder, split and whether to verify → uint8 `[n, height, width(, colours)]`, lossy.
    """

    shape: tuple[int, int, int]
    read: Callable[[str, str, bool], tuple[np.ndarray, bool]]


def _mnist(folder: str, split: str, verify: bool) -> tuple[np.ndarray, bool]:
    return read_mnist(folder, split, verify=verify)[0], False


def _cifar10(folder: str, split: str, verify: bool) -> tuple[np.ndarray, bool]:
    images, _, lossy = read_cifar10(folder, split, verify=verify)
    return images, lossy


IMAGE_SETS = {"mnist": ImageSet((28, 28, 1), _mnist), "cifar10": ImageSet((32, 32, 3), _cifar10)}


class ImageDataset(FairseqDataset):
    """Images as sequences, row by row, the colours of a pixel one after the other; EOS is read before the first value.

    Args:
        images: uint8 `[n, ...]`. dictionary: the 256 values, in order, behind fairseq's special symbols.
        lossy: whether they went through a compression that changed them.
    """

    def __init__(self, images: np.ndarray, dictionary: Dictionary, *, lossy: bool) -> None:
        self.pixels, self.dictionary, self.lossy = images.reshape(len(images), -1), dictionary, lossy

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`pixels`, uint8 `[N]`."""
        return {"id": int(index), "pixels": self.pixels[index]}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: the model reads EOS and all values but the last, and predicts all values. fairseq evens workers out with
        batches of no samples.
        """
        if not samples:
            return {}
        target = torch.from_numpy(np.stack([sample["pixels"] for sample in samples])).long() + self.dictionary.nspecial
        source = torch.cat([torch.full_like(target[:, :1], self.dictionary.eos()), target[:, :-1]], dim=1)
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "net_input": {"src_tokens": source, "src_lengths": torch.full((len(samples),), source.shape[1])},
            "target": target,
            "ntokens": target.numel(),
            "nsentences": len(samples),
        }

    def num_tokens(self, index: int) -> int:
        """N, the same for all."""
        return self.pixels.shape[1]

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """As `num_tokens`, int64 `[n]` for `[n]`."""
        return np.full(len(indices), self.pixels.shape[1])

    def size(self, index: int) -> int:
        """As `num_tokens`."""
        return self.pixels.shape[1]


@dataclass
class ImageGenerationConfig(FairseqDataclass):
    data: Optional[str] = field(default=None, metadata={"help": "folder of the images"})  # noqa: UP045 (fairseq reads this alone)
    images: ChoiceEnum(list(IMAGE_SETS)) = field(default="mnist", metadata={"help": "which images the folder holds"})
    valid_images: int = field(default=5000, metadata={"help": "images of the training set that are kept out of it, as `valid`"})
    scored_images: int = field(
        default=0, metadata={"help": "images of `valid` and of `test` that are scored, drawn once and for all; 0: all of them"}
    )
    skip_checksums: bool = field(default=False, metadata={"help": "take images that aren't the published ones"})
    tokens_per_sample: int = field(
        default=3072, metadata={"help": "pixels of the largest image that the model is built for, colours counted"}
    )
    max_target_positions: Optional[int] = "${task.tokens_per_sample}"  # noqa: UP045


@register_task("image_generation", dataclass=ImageGenerationConfig)
class ImageGenerationTask(EveryExampleTask):
    """Subsets are `train`, `valid` (held out of the published training set) and `test`.

    The criterion is `logistic_mixture_loss`, the model one with --mixture-components.
    """

    cfg: ImageGenerationConfig

    def __init__(self, cfg: ImageGenerationConfig) -> None:
        super().__init__(cfg)
        self.dictionary = Dictionary()
        for value in range(VALUES):
            self.dictionary.add_symbol(str(value))

    @classmethod
    def setup_task(cls, cfg: ImageGenerationConfig, **kwargs: Any) -> "ImageGenerationTask":
        """The task for a config; data is read when a data set is loaded.

        Raises:
            ValueError: an option out of range, or a model too short for the images.
        """
        for name, least in (("valid_images", 1), ("scored_images", 0), ("tokens_per_sample", 1)):
            if getattr(cfg, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(cfg, name)}")
        task = cls(cfg)
        if cfg.tokens_per_sample < task.pixels:
            raise ValueError(f"--tokens-per-sample {cfg.tokens_per_sample} is less than the {task.pixels} of {cfg.images}")
        return task

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and colours of an image."""
        return IMAGE_SETS[str(self.cfg.images)].shape

    @property
    def pixels(self) -> int:
        """Values of an image, N."""
        return int(np.prod(self.shape))

    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Read a subset.

        Raises:
            FileNotFoundError: no data.
            ValueError: an unknown subset, --valid-images as many as there are, data that are refused (see
                `momentum_fairseq.data`).
        """
        if split not in ("train", "valid", "test"):
            raise ValueError(f"no subset {split!r} of images; choose from train, valid, test")
        if self.cfg.data is None:
            raise FileNotFoundError("no folder of images given; name it behind the options")
        published = "test" if split == "test" else "train"
        images, lossy = IMAGE_SETS[str(self.cfg.images)].read(self.cfg.data, published, not self.cfg.skip_checksums)
        if lossy:
            logger.warning(f"{self.cfg.data}: {split}: images from a lossy compression; no result on them compares with others'")
        self.datasets[split] = ImageDataset(images[self._chosen(split, len(images))], self.dictionary, lossy=lossy)
        logger.info(f"{self.cfg.data}: {split}: {len(self.datasets[split])} images")

    def _chosen(self, split: str, images: int) -> np.ndarray:
        """Which of the published images a subset has, int64. Some data lies sorted by class: the order is a random one."""
        order = np.random.default_rng(SPLIT_SEED).permutation(images)
        if split != "test":
            held_out = self.cfg.valid_images
            if held_out >= images:
                raise ValueError(f"--valid-images {held_out} leaves nothing of {images} images to train on")
            order = order[:-held_out] if split == "train" else order[-held_out:]
        return order[: self.cfg.scored_images] if self.cfg.scored_images and split != "train" else order

    def tokens(self, values: Tensor) -> Tensor:
        """Pixel values 0 … 255, int64 or uint8 of any shape → what the model reads, int64."""
        return values.long() + self.dictionary.nspecial

    def values(self, tokens: Tensor) -> Tensor:
        """What the model predicts → pixel values, int64 of the same shape."""
        return tokens - self.dictionary.nspecial

    def max_positions(self) -> int:
        """Pixels of the largest image."""
        return self.cfg.tokens_per_sample

    @property
    def source_dictionary(self) -> Dictionary:
        """The 256 values, in order, behind fairseq's special symbols."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """As the source dictionary."""
        return self.dictionary
