"""fairseq models around the modules."""

from momentum_fairseq.models import momentum_lm, momentum_nat, momentum_transformer

__all__ = ["momentum_lm", "momentum_nat", "momentum_transformer"]
