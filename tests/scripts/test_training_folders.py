"""What the recipes keep of a training's folder: it goes on as it began."""

import torch

from tests.lra_sets import write_set
from tests.scripts.commands import run


def test_a_training_is_not_made_longer_with_other_learning_rates_than_it_began_with(tmp_path):
    folder = tmp_path / "runs" / "tiny" / "listops" / "linear-seed1"
    folder.mkdir(parents=True)
    (folder / "settings.txt").write_text("BATCH=8 LR=1e-2 WARMUP=2 MAX_POSITIONS=64 PRECISION=fp32\nflags \n")
    (folder / "schedule.txt").write_text("MAX_UPDATE=20\n")
    torch.save({"cfg": {}, "optimizer_history": [{"num_updates": 20}]}, folder / "checkpoint_last.pt")
    places = {"PREPARED": write_set(tmp_path / "set"), "RUNS": tmp_path / "runs"}
    settings = {**places, "SIZE": "tiny", "TASK": "listops", "ATTENTION": "linear", "STAGES": "train", "DEVICE": "cpu"}
    refused = run("examples/lra/run.sh", MAX_UPDATE=40, **settings)
    assert "its learning rate falls by MAX_UPDATE=20 and can't go on by MAX_UPDATE=40" in refused.stderr
    assert "is trained, nothing to do" in run("examples/lra/run.sh", MAX_UPDATE=20, **settings).stdout
