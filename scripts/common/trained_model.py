"""A trained model, loaded without running anything that its checkpoint may hold."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.tasks import FairseqTask

import momentum_fairseq  # noqa: F401  (registers the tasks, the models and safe loading)


class TrainedModel(NamedTuple):
    """What a checkpoint holds: the model in evaluation mode, its task, all its settings.

    trained_on: `data` of the task before any override, the folder that the model was trained on.
    """

    model: Any
    task: FairseqTask
    cfg: Any
    trained_on: str | None


def load_trained(checkpoint: Path, task: str, device: torch.device, overrides: dict[str, Any] | None = None) -> TrainedModel:
    """The model of a checkpoint of this task.

    Args:
        task: its name, as --task has it.
        overrides: values for the task's settings, such as the folder of the data.

    Raises:
        SystemExit: no such file, no checkpoint, or one of another task.
    """
    if not checkpoint.is_file():
        raise SystemExit(f"error: no checkpoint {checkpoint}; train one with --task {task}")
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
        name, trained_on = (getattr(state["cfg"].task, key, None) for key in ("_name", "data"))
        if name != task:  # another one would look for data of its own in the folder of this one's
            raise SystemExit(f"error: {checkpoint} is of the task {name}; this needs one of {task}")
        overwrite_args_by_name(state["cfg"], overrides or {})
        models, cfg, its_task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], state=state)
    except Exception as error:  # torch and fairseq have many for a file that is no checkpoint
        raise SystemExit(f"error: {checkpoint}: not a checkpoint that can be loaded: {error}") from error
    return TrainedModel(models[0].to(device).eval(), its_task, cfg, trained_on)
