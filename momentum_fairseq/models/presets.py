"""Architectures as data: named values for a model's dataclass config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
    register_model_architecture,
)
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra.core.config_store import ConfigStore

OF_THE_TASK = "${task."


def register_presets(
    model: str, config: type[FairseqDataclass], tasks: Sequence[str], presets: Mapping[str, Mapping[str, Any]]
) -> None:
    """Register each preset as `--arch`, and as `model._name` of fairseq-hydra-train: command line > preset > config's default.

    fairseq's command line gives a dataclass's defaults only to the architecture that bears the model's name, so a preset fills
    in the rest. fairseq-hydra-train asks no architecture, but gives the defaults of a dataclass, so a preset has one of its own.
    The command line refuses a task whose options lack those that the model takes its own from.

    Args:
        model: a registered model. config: its dataclass. tasks: whose model it is. presets: arch name → {field: value}.

    Raises:
        ValueError: a preset with a value for no field.
    """
    refuse_others = _refuser(config, tasks)
    ARCH_CONFIG_REGISTRY[model] = refuse_others
    defaults = {
        x.name: x.default if x.default is not MISSING else x.default_factory()
        for x in fields(config)
        if not x.name.startswith("_") and not is_interpolation(x.default)
    }
    for name, preset in presets.items():
        unknown = preset.keys() - defaults.keys()
        if unknown:
            raise ValueError(f"preset {name!r} sets {sorted(unknown)}, which {config.__name__} does not have")
        register_model_architecture(model, name)(_filler({**defaults, **preset}, refuse_others))
        ARCH_MODEL_NAME_REGISTRY[name] = name
        MODEL_DATACLASS_REGISTRY[name] = own = _own_config(name, config, preset)
        ConfigStore.instance().store(name=name, group="model", node=own(_name=name), provider="momentum_fairseq")


def is_interpolation(default: Any) -> bool:
    """Whether a field takes its value from another group of options, as `${task.max_source_positions}` does."""
    return isinstance(default, str) and default.startswith("${")


def _own_config(name: str, config: type[FairseqDataclass], preset: Mapping[str, Any]) -> type[FairseqDataclass]:
    """`config` with a preset's values as defaults."""
    own = [
        (x.name, x.type, field(default=preset[x.name], metadata=x.metadata)) for x in fields(config) if x.name in preset
    ]
    title = "".join(word.capitalize() for word in name.split("_"))
    return make_dataclass(f"{title}Config", own, bases=(config,))


def _refuser(config: type[FairseqDataclass], tasks: Sequence[str]) -> Callable[[Any], None]:
    """Raises ValueError for a parsed command line with a task that doesn't say what the model takes from it."""
    defaults = [x.default for x in fields(config) if is_interpolation(x.default)]
    taken = {default[len(OF_THE_TASK) : -1] for default in defaults if default.startswith(OF_THE_TASK)}

    def refuse(args: Any) -> None:
        task = TASK_DATACLASS_REGISTRY.get(getattr(args, "task", None))
        if task is not None and taken - {x.name for x in fields(task)}:
            raise ValueError(f"--arch {args.arch} is a model for --task {', '.join(tasks)}, not {args.task}")

    return refuse


def _filler(values: Mapping[str, Any], refuse_others: Callable[[Any], None]) -> Callable[[Any], None]:
    def fill(args: Any) -> None:
        refuse_others(args)
        for key, value in values.items():
            if not hasattr(args, key):
                setattr(args, key, value)

    return fill
