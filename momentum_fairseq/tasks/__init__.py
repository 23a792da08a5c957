"""fairseq tasks of the plug-in."""

from momentum_fairseq.tasks import translation_nat

__all__ = ["translation_nat"]
