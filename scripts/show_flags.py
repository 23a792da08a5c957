"""The plug-in's own flags with their defaults, which fairseq's --help stops before: by model, task and criterion.

    python scripts/show_flags.py [NAME …]        # such as momentum_nat, translation_nat; all without one
"""

import sys
from collections.abc import Iterator
from dataclasses import fields
from enum import EnumMeta
from textwrap import fill
from typing import Any

import common  # noqa: F401  (finds the package)
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import momentum_fairseq  # noqa: F401  (fills the registries)

# How defaults that are no numbers or names are shown.
WORDS = ((False, "off"), (True, "on"), (None, "none"))


def own_configs() -> dict[str, type]:
    """Name → config of every model, task and criterion of the plug-in."""
    models = {name: config for name, config in MODEL_DATACLASS_REGISTRY.items() if name in MODEL_REGISTRY}  # no presets
    registries = (models, TASK_DATACLASS_REGISTRY, CRITERION_DATACLASS_REGISTRY)
    found = {name: config for registry in registries for name, config in registry.items()}
    return {name: config for name, config in found.items() if config.__module__.startswith("momentum_fairseq.")}


def flags(config: type) -> Iterator[tuple[str, Any, str]]:
    """Flag, default and meaning of every field that isn't taken from another group of options."""
    for field in fields(config):
        interpolated = isinstance(field.default, str) and field.default.startswith("${")
        if not field.name.startswith("_") and not interpolated and field.name != "data":
            choices = f"{', '.join(map(str, field.type))}: " if isinstance(field.type, EnumMeta) else ""
            yield f"--{field.name.replace('_', '-')}", field.default, choices + field.metadata.get("help", "")


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__, end="")
        return
    configs = own_configs()
    names = sys.argv[1:] or list(configs)
    if unknown := [name for name in names if name not in configs]:
        raise SystemExit(f"show_flags.py: error: {unknown[0]}: choose from {', '.join(configs)}")
    for name in names:
        print(name)
        for flag, default, meaning in flags(configs[name]):
            shown = next((word for value, word in WORDS if default is value), default)
            print(fill(f"{flag} ({shown})  {meaning}", 130, initial_indent="  ", subsequent_indent="      "))
        print()


if __name__ == "__main__":
    main()
