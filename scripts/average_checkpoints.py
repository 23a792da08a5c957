"""Average the parameters of checkpoints of one training, as Vaswani et al. 2017 do before they translate.

  bash scripts/train.sh … --keep-interval-updates 5           # train.sh keeps one checkpoint by default
  python scripts/average_checkpoints.py OUT.pt model/checkpoint_*_*.pt

All but the parameters is taken from the last one named, without the optimizer's state. The file is written whole or not at all.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from common.checkpoint_file import load_checkpoint
from fairseq import checkpoint_utils


def average(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each floating-point parameter, summed in float64; other entries must be equal, or counters of the last."""
    last = models[-1]
    return {
        name: torch.stack([model[name].double() for model in models]).mean(0).to(value.dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in last.items()
    }


def check_alike(paths: list[Path], models: list[dict[str, Any]]) -> None:
    """End with a message that names the first checkpoint unlike the last."""

    def shape(model: dict[str, Any]) -> dict[str, Any]:
        return {name: value.shape if isinstance(value, torch.Tensor) else value for name, value in model.items()}

    wanted = shape(models[-1])
    for path, model in zip(paths, models, strict=True):
        found = shape(model)
        if found != wanted:
            name = next(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
            raise SystemExit(f"error: {path} and {paths[-1]} differ in {name}: not two checkpoints of one model")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="two or more, of one training")
    options = parser.parse_args(arguments)
    if len(options.checkpoints) < 2:
        raise SystemExit(f"error: an average takes two checkpoints or more, got {len(options.checkpoints)}")
    checkpoints = [load_checkpoint(path, "model") for path in options.checkpoints]
    models = [checkpoint["model"] for checkpoint in checkpoints]
    check_alike(options.checkpoints, models)
    averaged = {**checkpoints[-1], "model": average(models), "last_optimizer_state": None}
    try:
        checkpoint_utils.torch_persistent_save(averaged, str(options.out))
    except OSError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"average: {len(models)} checkpoints in {options.out}")


if __name__ == "__main__":
    main()
