"""The floors of the package, read from its imports: mathematics below modules below models below criterions and tasks."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "momentum_fairseq"
STANDARD = sys.stdlib_module_names
DECODING = ("refinement_generator", "teacher_scorer", "refinement_batches")
# What each floor may import besides the standard library and itself.
ALLOWED = {
    "data": {"torch", "numpy", "PIL"},
    "ops": {"torch", "triton"},
    "modules": {"torch", "momentum_fairseq.ops"},
    "models": {"torch", "fairseq", "hydra", "omegaconf", "momentum_fairseq.ops", "momentum_fairseq.modules"},
    "criterions": {"torch", "fairseq", "momentum_fairseq.ops"},
    "tasks": {
        *("torch", "numpy", "fairseq", "momentum_fairseq.data", "momentum_fairseq.ops"),
        *(f"momentum_fairseq.{file}" for file in DECODING),
    },
}


def imports(source: str) -> set[str]:
    """Every module that the source imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "momentum_fairseq":
                found |= {f"momentum_fairseq.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


def strays(floor: str, source: str) -> set[str]:
    """Imports that the floor may not have."""
    allowed = {*ALLOWED[floor], f"momentum_fairseq.{floor}"}
    return {
        name
        for name in imports(source)
        if name.split(".")[0] not in STANDARD and not any(name == a or name.startswith(f"{a}.") for a in allowed)
    }


FILES = [(floor, path) for floor in ALLOWED for path in sorted((PACKAGE / floor).rglob("*.py"))]


@pytest.mark.parametrize(("floor", "path"), FILES, ids=[str(path.relative_to(PACKAGE)) for _, path in FILES])
def test_a_file_imports_from_its_own_floor_and_below_only(floor, path):
    assert strays(floor, path.read_text(encoding="utf-8")) == set()


def test_every_folder_is_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize("file", DECODING)
def test_decoding_imports_models_and_no_task_or_criterion(file):
    found = {name for name in imports((PACKAGE / f"{file}.py").read_text()) if "momentum_fairseq" in name}
    below = ("momentum_fairseq.models.", "momentum_fairseq.modules.", *(f"momentum_fairseq.{name}" for name in DECODING))
    assert all(name.startswith(below) for name in found)


@pytest.mark.parametrize(
    ("floor", "line", "stray"),
    [
        ("ops", "import fairseq", "fairseq"),
        ("modules", "def f():\n    from fairseq.data import Dictionary", "fairseq.data"),
        ("ops", "from momentum_fairseq.modules import AttentionOptions", "momentum_fairseq.modules"),
        ("models", "from momentum_fairseq import tasks", "momentum_fairseq.tasks"),
        ("criterions", "import momentum_fairseq.models.presets", "momentum_fairseq.models.presets"),
        ("modules", "import numpy as np", "numpy"),
    ],
)
def test_an_import_from_above_is_found(floor, line, stray):
    assert strays(floor, line) == {stray}
