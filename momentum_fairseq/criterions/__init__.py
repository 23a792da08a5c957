"""fairseq criterions; they see a model's output dict only."""

from momentum_fairseq.criterions import nat_refinement_loss

__all__ = ["nat_refinement_loss"]
