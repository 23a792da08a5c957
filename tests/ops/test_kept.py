"""What is kept between calls serves all of them: real tensors, fake ones, those of an export."""

import weakref

import pytest
import torch
from torch._subclasses import FakeTensorMode

from momentum_fairseq.ops import causal_linear_attention, causal_momentum_attention, momentum_attention
from momentum_fairseq.ops.kept import kept
from momentum_fairseq.ops.momentum_attention import STEADY
from tests.ops.cases import inputs

# Lengths and numbers of no other test's: what another test has kept would hide a fault.
OPS = {
    "momentum": (momentum_attention, {"momentum": 0.61, "step_size": 0.71}, 41),
    "long momentum": (momentum_attention, {"momentum": 0.62, "step_size": 0.72}, STEADY + 7),
    "causal momentum, one chunk": (causal_momentum_attention, {"momentum": 0.63, "step_size": 0.73}, 43),
    "causal momentum, recent weights": (causal_momentum_attention, {"momentum": 0.13, "step_size": 0.74}, 397),
    "causal momentum, two matrices": (causal_momentum_attention, {"momentum": 0.999, "step_size": 0.75}, 397),
    "causal linear": (causal_linear_attention, {}, 397),
}


@pytest.fixture(params=OPS)
def case(request):
    attention, numbers, length = OPS[request.param]
    return lambda q, k, v: attention(q, k, v, **numbers), [x.detach() for x in inputs(length, length, dim=3, value_dim=2)]


def test_fake_tensors_leave_nothing_behind_and_find_nothing(case):
    attention, tensors = case
    for _ in range(2):
        with FakeTensorMode() as mode:
            assert attention(*map(mode.from_tensor, tensors)).shape == tensors[2].shape
        assert torch.isfinite(attention(*tensors)).all()


def test_an_export_leaves_nothing_behind(case):
    attention, tensors = case

    class Model(torch.nn.Module):
        def forward(self, q, k, v):
            return attention(q, k, v)

    exported = torch.export.export(Model(), tuple(tensors)).module()
    torch.testing.assert_close(exported(*tensors), attention(*tensors))


def test_it_is_made_once_of_the_same_numbers_and_each_time_of_tensors():
    made = []

    @kept
    def make(size, factor):
        made.append(size)
        return torch.ones(size) * factor

    with torch.inference_mode():
        first = make(3, 0.5)
    assert make(3, 0.5) is first
    assert not first.is_inference()
    assert make(3, torch.tensor(0.5)) is not make(3, torch.tensor(0.5))
    assert made == [3, 3, 3]


def test_a_cuda_graph_leaves_nothing_behind_and_what_it_found_stays(monkeypatch):
    make = kept(lambda size: torch.ones(size))
    found = weakref.ref(make(3))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert make(3) is found()
    recorded = make(4)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert make(4) is not recorded
    for size in range(5, 200):
        make(size)
    assert found() is not None
