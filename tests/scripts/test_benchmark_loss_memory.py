"""The memory benchmark of the refinement loss, run at a small size through its command line."""

import json

import pytest

from tests.scripts.commands import run


@pytest.mark.slow
def test_blocks_take_less_memory_and_give_the_same_loss(tmp_path):
    sizes = "--embed-dim 16 --ffn-dim 16 --layers 1 --heads 2 --vocabulary 20000 --sentences 8 --words 90 100 --steps 3 --cpu"
    result = run("scripts/benchmark_loss_memory.py", *sizes.split(), "--out", tmp_path / "memory.json")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "memory.json").read_text())
    assert record["peak_bytes"]["blocks"] < 0.5 * record["peak_bytes"]["whole logits"]
    assert record["loss"]["blocks"] == pytest.approx(record["loss"]["whole logits"], rel=1e-5)
    assert record["vocabulary"] == 20000 and record["command"].startswith("python scripts/benchmark_loss_memory.py")
