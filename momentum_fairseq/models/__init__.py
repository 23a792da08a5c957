"""fairseq models around the modules."""

from momentum_fairseq.models import lra_classifier, momentum_lm, momentum_nat, momentum_transformer

__all__ = ["lra_classifier", "momentum_lm", "momentum_nat", "momentum_transformer"]
