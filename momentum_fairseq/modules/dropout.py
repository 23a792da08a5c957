"""Dropout (Srivastava et al., JMLR 2014) at the price of its random bits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16  # of 16 random bits


class Dropout(nn.Dropout):
    """y = x ∘ mask / (1 − p) in training, x otherwise, as torch's own.

    On a CPU torch makes a draw for every element, a tenth of a training; here four elements share a draw of 64 bits, in a
    quarter of the time. p is then rounded to a multiple of 2⁻¹⁶, and 1 − p with it, so that the mean stays exact.

    Args:
        p: chance that an element is dropped. module_name: the class that this is a part of, as --retain-dropout-modules names it.
    """

    def __init__(self, p: float, module_name: str | None = None) -> None:
        super().__init__(p)
        self.module_name, self.retained = module_name, False

    def forward(self, x: Tensor) -> Tensor:
        """`[...]` → `[...]`."""
        if not (self.training or self.retained):
            return x
        if self.p in (0, 1) or x.device.type != "cpu":
            return F.dropout(x, self.p)
        return x * scaled_mask(x, self.p)

    def make_generation_fast_(
        self, retain_dropout: bool = False, retain_dropout_modules: str | list[str] | None = None, **kwargs: Any
    ) -> None:
        """What fairseq calls before decoding: with --retain-dropout this drops in evaluation too.

        Args:
            retain_dropout_modules: only in these classes; the command line gives them as one text, with commas.
        """
        if isinstance(retain_dropout_modules, str):
            retain_dropout_modules = retain_dropout_modules.split(",")
        self.retained = retain_dropout and (retain_dropout_modules is None or self.module_name in retain_dropout_modules)


def scaled_mask(x: Tensor, p: float) -> Tensor:
    """0 with probability p and 1 / (1 − p) otherwise, in x's shape and dtype, on the CPU."""
    dropped = min(round(p * LEVELS), LEVELS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None).view(torch.int16)
    # Compared in place in float32: in torch an element of a bool tensor takes several times as long.
    mask = bits[: x.numel()].float().ge_(dropped - LEVELS // 2).mul_(LEVELS / (LEVELS - dropped))
    return mask.view(x.shape).to(x.dtype)
