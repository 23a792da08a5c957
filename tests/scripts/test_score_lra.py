"""What the JSON of a classifier says of its data: the sets that were scored, and the training set that the model had."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import score_lra
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import setup_task
from omegaconf import OmegaConf

from tests.lra_sets import write_set


@pytest.fixture
def trained_on(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


@pytest.fixture
def checkpoint(trained_on: Path, tmp_path: Path) -> Path:
    """Of an untrained model, with its parts named as fairseq-train names them."""
    flags = ["--task=lra", "--lra-task=listops", "--arch=lra_classifier_listops", "--criterion=classification_loss"]
    size = ["--embed-dim=8", "--ffn-dim=8", "--heads=2", "--layers=1", "--batch-size=8", "--max-update=9"]
    cfg = convert_namespace_to_omegaconf(
        options.parse_args_and_arch(options.get_training_parser(), [str(trained_on), *flags, *size])
    )
    state = {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True),
        "model": setup_task(cfg.task).build_model(cfg.model).state_dict(),
        "optimizer_history": [{"lr_scheduler_state": {}, "num_updates": 9}],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    path = tmp_path / "checkpoint_best.pt"
    torch.save(state, path)
    return path


def data_of(checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> dict[str, Any]:
    """`data` of the JSON where a folder is scored."""
    out = checkpoint.with_name("result.json")
    monkeypatch.setattr(sys, "argv", ["score_lra.py", *map(str, (folder, checkpoint, out)), "--cpu", *flags])
    score_lra.main()
    return json.loads(out.read_text())["data"]


def test_the_training_set_is_that_of_the_training_not_of_the_scored_folder(checkpoint, trained_on, tmp_path, monkeypatch, capsys):
    other = write_set(tmp_path / "other", lengths=(21, 40))
    own, others = (data_of(checkpoint, folder, monkeypatch) for folder in (trained_on, other))
    assert list(own) == list(others) == ["train", "dev", "test"]
    assert others["train"] == own["train"]
    assert all(others[split]["sha256"] != own[split]["sha256"] for split in ("dev", "test"))
    scored = data_of(checkpoint, other, monkeypatch, "--splits", "train")["train"]
    assert scored["sha256"] != own["train"]["sha256"] and scored["cut"] == 0
    capsys.readouterr()
    shutil.rmtree(trained_on)
    without = {split: others[split] for split in ("dev", "test")}
    assert data_of(checkpoint, other, monkeypatch) == without
    assert f"{trained_on}: the model was trained on it, and no set is there" in capsys.readouterr().out
