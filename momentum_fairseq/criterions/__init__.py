"""fairseq criterions; they see a model's output dict only."""

from momentum_fairseq.criterions import classification_loss, logistic_mixture_loss, nat_refinement_loss

__all__ = ["classification_loss", "logistic_mixture_loss", "nat_refinement_loss"]
