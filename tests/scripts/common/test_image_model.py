"""The checkpoint of an image model, or a refusal that says what it is of."""

from pathlib import Path

import pytest
import torch
from common.image_model import load_image_model


def test_a_checkpoint_of_another_task_is_refused_by_the_task_before_its_data_is_sought(tmp_path: Path):
    checkpoint = tmp_path / "checkpoint_last.pt"
    cfg = {"task": {"_name": "language_modeling", "data": "elsewhere"}, "model": {"_name": "momentum_lm"}}
    trained = {"optimizer_history": [{"lr_scheduler_state": {}}], "extra_state": {"train_iterator": {"epoch": 1}}}
    torch.save({"model": {}, "args": None, "cfg": cfg, **trained}, checkpoint)
    with pytest.raises(SystemExit, match="is of the task language_modeling; this needs one of image_generation"):
        load_image_model(checkpoint, torch.device("cpu"), {"data": str(tmp_path)})
