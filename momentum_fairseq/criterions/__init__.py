"""fairseq criterions; they see a model's output dict only."""

from momentum_fairseq.criterions import logistic_mixture_loss, nat_refinement_loss

__all__ = ["logistic_mixture_loss", "nat_refinement_loss"]
