"""fairseq finds the plug-in's parts whichever comes first: importing the package, or `--user-dir`."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from fairseq import utils
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

import momentum_fairseq

ROOT = Path(__file__).resolve().parents[1]
USER_DIR = ROOT / "momentum_fairseq"

CHECK = """
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.tasks import TASK_REGISTRY
assert "nat_refinement_loss" in CRITERION_REGISTRY
assert {"momentum_nat", "momentum_nat_tiny"} <= ARCH_MODEL_REGISTRY.keys()
assert {"momentum_transformer", "momentum_transformer_tiny"} <= ARCH_MODEL_REGISTRY.keys()
assert {"lra_classifier", "lra_classifier_listops"} <= ARCH_MODEL_REGISTRY.keys()
assert "classification_loss" in CRITERION_REGISTRY and "lra" in TASK_REGISTRY
assert {"momentum_lm", "momentum_lm_tiny", "momentum_lm_copy"} <= ARCH_MODEL_REGISTRY.keys()
assert {"momentum_lm_mnist", "momentum_lm_cifar10"} <= ARCH_MODEL_REGISTRY.keys()
assert "logistic_mixture_loss" in CRITERION_REGISTRY
assert {"copy", "image_generation", "translation_nat"} <= TASK_REGISTRY.keys()
assert "radam" in OPTIMIZER_REGISTRY
import momentum_fairseq
from momentum_fairseq.models.momentum_lm import MomentumLmModel
from momentum_fairseq.models.momentum_nat import MomentumNatModel
from momentum_fairseq.models.momentum_transformer import MomentumTransformerModel
assert ARCH_MODEL_REGISTRY["momentum_lm_tiny"] is MomentumLmModel
assert ARCH_MODEL_REGISTRY["momentum_nat_tiny"] is MomentumNatModel
assert ARCH_MODEL_REGISTRY["momentum_transformer_tiny"] is MomentumTransformerModel
"""
IMPORT = "import momentum_fairseq"
USE = (
    f"from argparse import Namespace; from fairseq import utils; utils.import_user_module(Namespace(user_dir={str(USER_DIR)!r}))"
)


def test_the_names_belong_to_the_plug_in():
    assert TASK_REGISTRY["translation_nat"].__module__ == "momentum_fairseq.tasks.translation_nat"
    assert TASK_REGISTRY["copy"].__module__ == "momentum_fairseq.tasks.copy_task"
    assert TASK_REGISTRY["lra"].__module__ == "momentum_fairseq.tasks.lra"
    for model in ("lra_classifier", "momentum_lm", "momentum_nat", "momentum_transformer"):
        assert MODEL_REGISTRY[model].__module__ == f"momentum_fairseq.models.{model}"
    assert CRITERION_REGISTRY["classification_loss"].__module__ == "momentum_fairseq.criterions.classification_loss"
    assert CRITERION_REGISTRY["nat_refinement_loss"].__module__ == "momentum_fairseq.criterions.nat_refinement_loss"


def test_a_user_dir_that_is_imported_already_registers_nothing_twice():
    before = {name: ARCH_MODEL_REGISTRY[name] for name in ARCH_MODEL_REGISTRY if name.startswith("momentum_")}
    utils.import_user_module(Namespace(user_dir=str(USER_DIR)))
    utils.import_user_module(Namespace(user_dir=str(USER_DIR)))
    assert {name: ARCH_MODEL_REGISTRY[name] for name in before} == before
    assert sys.modules["momentum_fairseq"] is momentum_fairseq


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [[IMPORT], [USE], [IMPORT, USE], [USE, IMPORT]], ids=["import", "user-dir", "import first", "user-dir first"]
)
def test_the_names_are_registered_in_every_import_order(order, tmp_path):
    lines = [f"import sys; sys.path.append({str(ROOT)!r})" if IMPORT in order else "", *order, CHECK]
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_copy_of_the_plug_in_under_another_name_is_refused_by_it(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_bytes((USER_DIR / "__init__.py").read_bytes())
    with pytest.raises(ImportError, match=r"mine: the plug-in's folder must be named momentum_fairseq, not mine; rename it"):
        utils.import_user_module(Namespace(user_dir=str(tmp_path / "mine")))
