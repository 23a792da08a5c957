"""Architectures as data: named values for a model's dataclass config."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model_architecture


def register_presets(model: str, config: type[FairseqDataclass], presets: Mapping[str, Mapping[str, Any]]) -> None:
    """Register each preset as `--arch`: command line > preset > the config's own default.

    fairseq gives a dataclass's defaults only to the architecture that bears the model's name, so a preset fills in the rest.

    Args:
        model: a registered model. config: its dataclass. presets: arch name → {field: value}.

    Raises:
        ValueError: a preset with a value for no field.
    """
    defaults = {
        field.name: field.default if field.default is not MISSING else field.default_factory()
        for field in fields(config)
        if not field.name.startswith("_") and not is_interpolation(field.default)
    }
    for name, preset in presets.items():
        unknown = preset.keys() - defaults.keys()
        if unknown:
            raise ValueError(f"preset {name!r} sets {sorted(unknown)}, which {config.__name__} does not have")
        register_model_architecture(model, name)(_filler({**defaults, **preset}))


def is_interpolation(default: Any) -> bool:
    """Whether a field takes its value from another group of options, as `${task.max_source_positions}` does."""
    return isinstance(default, str) and default.startswith("${")


def _filler(values: Mapping[str, Any]) -> Callable[[Any], None]:
    def fill(args: Any) -> None:
        for key, value in values.items():
            if not hasattr(args, key):
                setattr(args, key, value)

    return fill
