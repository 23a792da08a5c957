"""Drawing images value by value with a model of images, and putting them into one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from common.whole_file import whole_file
from momentum_fairseq.models.momentum_lm import MomentumLmModel
from momentum_fairseq.ops.logistic_mixture import sample_logistic_mixture
from momentum_fairseq.tasks.image_generation import ImageGenerationTask

GAP = 2  # pixels between the images of a picture
PAPER = 128  # grey behind them


class Reader(Protocol):
    """Reads the values of a batch of images one after the other."""

    def start(self, known: Tensor) -> Tensor:
        """The values known at first, uint8 or int64 `[B,P]` → the parameters of the next one `[B,3K]`."""

    def step(self, values: Tensor) -> Tensor:
        """One more value of each image, int64 `[B]` → the parameters of the next one `[B,3K]`."""


class SteppingReader:
    """Keeps what the attention kind keeps: a state of constant size, or all keys and values (softmax)."""

    def __init__(self, model: MomentumLmModel, task: ImageGenerationTask) -> None:
        self.decoder, self.task, self.state = model.decoder, task, {}

    def start(self, known: Tensor) -> Tensor:
        self.state: dict[str, Any] = {}
        return self.decoder(with_start(known, self.task), incremental_state=self.state)[0][:, -1]

    def step(self, values: Tensor) -> Tensor:
        return self.decoder.step(self.task.tokens(values), self.state)


class RereadingReader:
    """Keeps the values alone and reads them all again for each new one: softmax attention without a cache."""

    def __init__(self, model: MomentumLmModel, task: ImageGenerationTask) -> None:
        self.decoder, self.task = model.decoder, task

    def start(self, known: Tensor) -> Tensor:
        self.tokens = with_start(known, self.task)
        features, _ = self.decoder.extract_features(self.tokens)
        return self.decoder.output_layer(features[:, -1])

    def step(self, values: Tensor) -> Tensor:
        return self.start(torch.cat([self.tokens[:, 1:] - self.task.dictionary.nspecial, values[:, None]], dim=1))


def with_start(known: Tensor, task: ImageGenerationTask) -> Tensor:
    """What the model reads for the values `[B,P]`: int64 `[B,1+P]`."""
    tokens = task.tokens(known)
    return torch.cat([tokens.new_full((len(tokens), 1), task.dictionary.eos()), tokens], dim=1)


@torch.inference_mode()
def draw(reader: Reader, known: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Go on with images of which the first values are known.

    Args:
        known: uint8 `[B,P]` on the model's device; P = 0 draws whole images.
        pixels: N, the values of an image. generator: on the model's device.

    Returns:
        uint8 `[B,N]`; the same for the same generator, model and device.

    Raises:
        ValueError: more known values than an image has, or no image.
    """
    images, given = known.shape
    if given > pixels:
        raise ValueError(f"a prompt of {given} values is longer than an image of {pixels}")
    if not images:
        raise ValueError("no images to draw")
    result = known.new_empty(images, pixels)
    result[:, :given] = known
    values = None
    for i in range(given, pixels):
        parameters = reader.start(known) if values is None else reader.step(values)
        values = sample_logistic_mixture(parameters, generator)
        result[:, i] = values
    return result


def in_batches(reader: Reader, known: Tensor, pixels: int, generator: torch.Generator, batch_size: int) -> Tensor:
    """`draw`, so many images at a time."""
    return torch.cat([draw(reader, part, pixels, generator) for part in known.split(batch_size)])


def save_picture(rows: Sequence[np.ndarray], path: Path, scale: int) -> None:
    """A PNG of rows of images, uint8 `[n,height,width,colours]` each; whole or not at all."""
    from PIL import Image  # here: drawing is measured on machines that lack Pillow too

    height, width = rows[0].shape[1:3]
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), PAPER, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = GAP + i * (height + GAP), GAP + j * (width + GAP)
            canvas[top : top + height, left : left + width] = image  # one colour serves for three
    picture = Image.fromarray(canvas)
    with whole_file(path) as part:
        picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST).save(part, format="PNG")
