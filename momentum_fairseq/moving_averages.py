"""`--store-ema` for models whose state holds more than floating-point tensors: their options, and counts of random draws."""

from collections.abc import Mapping
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.models import ema
from torch import Tensor, nn


def average_numbers_alone() -> None:
    """Let fairseq average what can be averaged; fairseq 0.12.3 takes all for floating-point tensors in one place or another."""
    ema.EMA = FloatingPointAverage
    checkpoint_utils.load_ema_from_checkpoint = load_average


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
