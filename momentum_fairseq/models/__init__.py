"""fairseq models around the modules."""

from momentum_fairseq.models import momentum_nat

__all__ = ["momentum_nat"]
