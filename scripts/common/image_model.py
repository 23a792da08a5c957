"""A trained model of images, loaded without running anything that its checkpoint may hold."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq import checkpoint_utils

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
    if not checkpoint.is_file():
        raise SystemExit(f"error: no checkpoint {checkpoint}; train one with examples/image_generation/run.sh")
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint), overrides)
        name = getattr(state["cfg"].task, "_name", None)
        if name != "image_generation":  # another task would look for data of its own in the folder of images
            raise SystemExit(f"error: {checkpoint} is of the task {name}; this needs one of image_generation")
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], overrides, state=state)
    except Exception as error:  # torch and fairseq have many for a file that is no checkpoint
        raise SystemExit(f"error: {checkpoint}: not a checkpoint that can be loaded: {error}") from error
    model = models[0]
    if not getattr(cfg.model, "mixture_components", 0):
        raise SystemExit(f"error: {checkpoint}: the model predicts words, not a mixture of logistics (--mixture-components)")
    return ImageModel(model.to(device).eval(), task, cfg)
