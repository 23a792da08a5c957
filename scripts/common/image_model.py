"""A trained model of images, loaded without running anything that its checkpoint may hold."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.trained_model import load_trained
from momentum_fairseq.models.momentum_lm import MomentumLmModel
from momentum_fairseq.tasks.image_generation import ImageGenerationTask


class ImageModel(NamedTuple):
    """What a checkpoint holds: the model in evaluation mode, its task, all its settings."""

    model: MomentumLmModel
    task: ImageGenerationTask
    cfg: Any


def load_image_model(checkpoint: Path, device: torch.device, overrides: dict[str, Any] | None = None) -> ImageModel:
    """The model of a checkpoint of the `image_generation` task.

    Args:
        overrides: values for the task's settings, such as the folder of the data.

    Raises:
        SystemExit: no such file, no checkpoint, or one of another task or kind of output.
    """
    model, task, cfg, _ = load_trained(checkpoint, "image_generation", device, overrides)
    if not getattr(cfg.model, "mixture_components", 0):
        raise SystemExit(f"error: {checkpoint}: the model predicts words, not a mixture of logistics (--mixture-components)")
    return ImageModel(model, task, cfg)
