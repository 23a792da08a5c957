"""Results of one row, which a table averages: one a seed, of trainings that differ in nothing else."""

from typing import Any

# What evaluate.py, score_lra.py and score_images.py say of a model and its training, whatever the seed.
ALIKE = ("model", "task", "training_set", "parameters", "max_update", "batch_size", "max_tokens", "lr")


def clash(first: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Why two results can't be seeds of one row, or None; entries that either lacks are left aside."""
    if first.get("seed") is not None and first["seed"] == other.get("seed"):
        return f"both of row {first['name']}, seed {first['seed']}; leave one out"
    for what in ALIKE:
        if what in first and what in other and (found := difference(first[what], other[what])):
            return f"both of row {first['name']}, but differ in {what} ({found}); make a table for each, or name one otherwise"
    return None


def difference(first: Any, other: Any) -> str:
    """What differs between two entries, empty where nothing does; of settings those that both have."""
    if not isinstance(first, dict) or not isinstance(other, dict):
        return "" if first == other else f"{first} and {other}"
    shared = [key for key in first if key in other and first[key] != other[key]]
    return ", ".join(f"{key}: {first[key]} and {other[key]}" for key in shared)
