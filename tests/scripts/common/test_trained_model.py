"""Loading a checkpoint for a task, or a refusal that says what it is of."""

from pathlib import Path

import pytest
import torch
from common.trained_model import load_trained

CPU = torch.device("cpu")


@pytest.mark.parametrize("task", ["image_generation", "lra"])
def test_a_checkpoint_of_another_task_is_refused_by_the_task_before_its_data_is_sought(task, tmp_path: Path):
    checkpoint = tmp_path / "checkpoint_last.pt"
    cfg = {"task": {"_name": "language_modeling", "data": "elsewhere"}, "model": {"_name": "momentum_lm"}}
    trained = {"optimizer_history": [{"lr_scheduler_state": {}}], "extra_state": {"train_iterator": {"epoch": 1}}}
    torch.save({"model": {}, "args": None, "cfg": cfg, **trained}, checkpoint)
    with pytest.raises(SystemExit, match=f"is of the task language_modeling; this needs one of {task}"):
        load_trained(checkpoint, task, CPU, {"data": str(tmp_path)})


def test_no_checkpoint_and_no_whole_one_are_refused_by_name(tmp_path: Path):
    checkpoint = tmp_path / "checkpoint_last.pt"
    with pytest.raises(SystemExit, match=f"no checkpoint {checkpoint}; train one with --task lra"):
        load_trained(checkpoint, "lra", CPU)
    checkpoint.write_bytes(b"half")
    with pytest.raises(SystemExit, match=f"{checkpoint}: not a checkpoint that can be loaded"):
        load_trained(checkpoint, "lra", CPU)
