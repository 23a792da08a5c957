"""fairseq tasks of the plug-in."""

from momentum_fairseq.tasks import copy_task, translation_nat

__all__ = ["copy_task", "translation_nat"]
