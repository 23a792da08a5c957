"""Every script that opens a checkpoint refuses one with a planted pickle, and its code doesn't run."""

import sys
from argparse import Namespace
from pathlib import Path

import decode_shards
import evaluate
import hours_trained
import pytest
import score_lra
import torch
from common import checkpoint_file, image_model, run_record

from momentum_fairseq.teacher_scorer import TeacherScorer
from tests.planted import Planted

LANGUAGES = ("src", "tgt")
CPU = torch.device("cpu")


def score(path: Path, task: object) -> None:
    sys.argv = ["score_lra.py", str(path.parent), str(path), str(path.with_name("out.json")), "--cpu"]
    score_lra.main()


def hours(path: Path, task: object) -> None:
    sys.argv = ["hours_trained.py", str(path.parent)]
    hours_trained.main()


LOADERS = {
    "checkpoint_file": lambda path, task: checkpoint_file.load_checkpoint(path, "model"),
    "decode_shards": lambda path, task: decode_shards.Teacher(path, path.parent, LANGUAGES, CPU, 4, 1.0),
    "evaluate": lambda path, task: evaluate.load(Namespace(checkpoint=path, data=path.parent, dtype="float32"), CPU),
    "hours_trained": hours,
    "image_model": lambda path, task: image_model.load_image_model(path, CPU),
    "run_record": lambda path, task: run_record.training_record(path),
    "score_lra": score,
    "--rescore-with": lambda path, task: TeacherScorer.load(str(path), task),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_planted_pickle_is_refused_and_its_code_not_run(loader, build_task, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    path, mark = tmp_path / "checkpoint_last.pt", tmp_path / "ran"
    torch.save({"model": {}, "args": None, "cfg": None, "extra_state": Planted(f"touch {mark}")}, path)
    with pytest.raises((Exception, SystemExit), match=r"Weights only load failed|loads safely \(UnpicklingError\)"):
        LOADERS[loader](path, build_task())
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the plant works where nobody looks
    assert mark.exists()
