"""The blocked cross-entropy in a model that two processes train together."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_fairseq.ops import blocked_cross_entropy as module
from momentum_fairseq.ops.blocked_cross_entropy import blocked_cross_entropy

PROCESSES, ROWS, FEATURES, WORDS = 2, 9, 4, 11


class Model(nn.Module):
    """A layer and a projection to words that the loss reads by its weight alone; both losses of the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.projection = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, WORDS, bias=False)

    def forward(self, x: Tensor, targets: Tensor, blocked: bool) -> Tensor:
        hidden = self.layer(x)
        if blocked:
            return blocked_cross_entropy(hidden, self.projection.weight, targets)[0]
        return F.cross_entropy(self.projection(hidden), targets, reduction="sum")


def case() -> tuple[Model, Tensor, Tensor]:
    """The model, and the rows of all processes together."""
    torch.manual_seed(1)
    rows = PROCESSES * ROWS
    return Model().double(), torch.randn(rows, FEATURES, dtype=torch.float64), torch.randint(WORDS, (rows,))


def gradients(rank: int, rendezvous: str, out: str) -> None:
    """Write the gradients that this process is left with."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=PROCESSES)
    module.BLOCK["cpu"] = 4 * WORDS  # three blocks of rows
    model, x, targets = case()
    rows = slice(rank * ROWS, (rank + 1) * ROWS)
    wrapped = nn.parallel.DistributedDataParallel(model)
    wrapped(x[rows], targets[rows], blocked=True).backward()
    torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_get_the_mean_gradient_of_the_plain_loss(tmp_path):
    mp.spawn(gradients, (str(tmp_path / "rendezvous"), str(tmp_path / "gradients")), nprocs=PROCESSES)
    model, x, targets = case()
    model(x, targets, blocked=False).backward()
    for rank in range(PROCESSES):
        found = torch.load(tmp_path / f"gradients.{rank}", weights_only=True)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad / PROCESSES, rtol=1e-10, atol=1e-10)
