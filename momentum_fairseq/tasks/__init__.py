"""fairseq tasks of the plug-in."""

from momentum_fairseq.tasks import copy_task, image_generation, lra, translation_nat

__all__ = ["copy_task", "image_generation", "lra", "translation_nat"]
