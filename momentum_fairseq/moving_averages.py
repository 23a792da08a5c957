"""`--store-ema` for models whose state holds more than floating-point tensors (their options, and counts of random draws), and
from checkpoints of trainings without it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.models import ema
from fairseq.trainer import Trainer
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def average_numbers_alone() -> None:
    """Let fairseq average what can be averaged; fairseq 0.12.3 takes all for floating-point tensors in one place or another."""
    ema.EMA = FloatingPointAverage
    checkpoint_utils.load_ema_from_checkpoint = load_average


def begin_averages_with_parameters() -> None:
    """Let --store-ema go on from a checkpoint without an average, which begins with the checkpoint's parameters then.

    So fairseq 0.12.3 says that it does, but it has deleted them by then: KeyError: 'model'.
    """
    load_checkpoint = Trainer.load_checkpoint
    if load_checkpoint.__module__ == __name__:  # the module is imported anew
        return

    def load_with_average(self: Trainer, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        if not self.cfg.ema.store_ema:
            return load_checkpoint(self, *args, **kwargs)
        load = checkpoint_utils.load_checkpoint_to_cpu
        checkpoint_utils.load_checkpoint_to_cpu = _with_average(load)
        try:
            return load_checkpoint(self, *args, **kwargs)
        finally:
            checkpoint_utils.load_checkpoint_to_cpu = load

    Trainer.load_checkpoint = load_with_average


def _with_average(load: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """As `load`; where a checkpoint has no average its parameters are it."""

    def load_state(path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = load(path, *args, **kwargs)
        if "ema" not in state["extra_state"]:
            logger.warning(f"{path} holds no moving average: it begins with the parameters there")
            state["extra_state"] |= {"ema": state["model"], "ema_fp32_params": state["model"]}
        return state

    return load_state


class FloatingPointAverage(ema.EMA):
    """fairseq's average; integer tensors are the model's latest, and options have no copy in float32."""

    def __init__(self, model: nn.Module, config: Any, device: Any = None, skip_keys: set[str] | None = None) -> None:
        integers = {name for name, value in tensors(model.state_dict()).items() if not value.is_floating_point()}
        super().__init__(model, config, device, integers | (skip_keys or set()))

    def build_fp32_params(self, state_dict: Mapping[str, Any] | None = None) -> None:
        """Keep the tensors of a state, by default of the average so far, in float32."""
        super().build_fp32_params(tensors(self.model.state_dict() if state_dict is None else state_dict))


def load_average(path: str) -> dict[str, Any]:
    """A checkpoint with the average in the place of the model; its options go along.

    Raises:
        ValueError: a checkpoint of a training without --store-ema.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    average = checkpoint.get("extra_state", {}).get("ema")
    if average is None:
        raise ValueError(f"{path} holds no moving average; its training had no --store-ema")
    return {**checkpoint, "model": average}


def tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a state holds besides options."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
