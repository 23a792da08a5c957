"""Momentum attention for fairseq (Nguyen et al., "Momentum Transformer", MSML 2022), a plug-in for `--user-dir`."""

if __name__ != "momentum_fairseq":  # its parts import each other by that name
    raise ImportError(f"--user-dir {__path__[0]}: the plug-in's folder must be named momentum_fairseq, not {__name__}; rename it")

from momentum_fairseq.checkpoints import allow_safe_loading, save_whole_or_not_at_all
from momentum_fairseq.empty_translations import score_empty_translations
from momentum_fairseq.log_files import log_each_line_once
from momentum_fairseq.moving_averages import average_numbers_alone, begin_averages_with_parameters
from momentum_fairseq.numpy_names import restore_numpy_names

allow_safe_loading()
save_whole_or_not_at_all()
log_each_line_once()
score_empty_translations()
average_numbers_alone()
begin_averages_with_parameters()
restore_numpy_names()

from momentum_fairseq import criterions, models, radam, tasks  # noqa: E402  (fairseq scans models and tasks only)

__all__ = ["criterions", "models", "radam", "tasks"]
