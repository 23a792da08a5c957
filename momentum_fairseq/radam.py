"""`--optimizer radam`: rectified Adam (Liu et al., ICLR 2020), which fairseq lacks and torch has."""

from ast import literal_eval
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II


@dataclass
class RAdamConfig(FairseqDataclass):
    adam_betas: str = field(default="(0.9, 0.999)", metadata={"help": "decay of the two moments"})
    adam_eps: float = field(default=1e-8, metadata={"help": "ε in the denominator"})
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay, decoupled as in fairseq's adam"})
    lr: list[float] = II("optimization.lr")


@register_optimizer("radam", dataclass=RAdamConfig)
class RAdam(FairseqOptimizer):
    """torch.optim.RAdam: Adam whose step is scaled by how well the second moment is known; no warm-up is needed.

    Raises:
        ValueError: --adam-betas that are not two numbers, or a value that torch refuses.
    """

    def __init__(self, cfg: RAdamConfig, params: Any) -> None:
        super().__init__(cfg)
        self._optimizer = torch.optim.RAdam(params, **self.optimizer_config, decoupled_weight_decay=True)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Options that win over those in a checkpoint."""
        return {
            "lr": self.cfg.lr[0],
            "betas": _betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    @property
    def supports_flat_params(self) -> bool:
        """Each number is updated by itself."""
        return True


def _betas(text: str) -> tuple[float, float]:
    try:
        first, second = literal_eval(text)
        return float(first), float(second)
    except (ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f'--adam-betas must be two numbers as in "(0.9, 0.999)", got {text!r}') from error
