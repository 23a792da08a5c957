"""The fused step of decoding in Triton against the float64 oracle: natively where there is a GPU, else in the interpreter."""

import math

import pytest
import torch

pytest.importorskip("triton")

from momentum_fairseq.ops import (
    LinearState,
    MomentumState,
    elu_plus_one,
    linear_attention_step,
    momentum_attention_step,
    recurrent_momentum_attention,
)
from momentum_fairseq.ops.kernel_choice import VARIABLE
from momentum_fairseq.ops.kernels import step as step_kernel
from tests.ops.kernel_cases import DEVICE, LIMITS, MOMENTA, assert_exact, draw, inputs

pytest_plugins = ["tests.ops.kernel_fixtures"]
pytestmark = pytest.mark.usefixtures("by_triton")


def steps(q, k, v, step, state=None, **options):
    """All positions, one at a time, and the last state."""
    outs = []
    for i in range(q.shape[2]):
        out, state = step(q[:, :, i], k[:, :, i], v[:, :, i], state, **options)
        outs.append(out)
    return torch.stack(outs, dim=2), state


def detached(*shape, **options):
    return [x.detach() for x in inputs(*shape, **options)]


def oracle(leaves, **options):
    return [recurrent_momentum_attention(*(x.double() for x in leaves), **options)]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_step_by_step_it_is_the_recurrence(momentum, in_place):
    leaves = detached(5, 5, 8, 33)
    out, _ = steps(*leaves, momentum_attention_step, momentum=momentum, step_size=0.7, in_place=in_place)
    assert_exact([out], oracle(leaves, momentum=momentum, step_size=0.7), LIMITS[torch.float32])


@pytest.mark.parametrize("dim, value_dim", [(1, 1), (33, 8), (139, 139)])
def test_it_is_the_recurrence_for_any_dimensions(dim, value_dim):
    leaves = detached(3, 3, dim, value_dim)
    out, _ = steps(*leaves, momentum_attention_step, momentum=0.9, step_size=0.7)
    assert_exact([out], oracle(leaves, momentum=0.9, step_size=0.7), LIMITS[torch.float32])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", ["momentum", "linear"])
def test_several_programs_may_share_a_head(kind, in_place, monkeypatch):
    """70 columns in tiles of 16, of which two programs take three each."""
    monkeypatch.setattr(step_kernel, "STATE_TILE", 16 * 16)
    leaves, numbers = detached(3, 3, 8, 70, mapped=False), {} if kind == "linear" else dict(momentum=0.9, step_size=0.7)
    step = linear_attention_step if kind == "linear" else momentum_attention_step
    options = dict(in_place=in_place, feature_map=elu_plus_one, **numbers)
    alone, state = steps(*leaves, step, **options)
    monkeypatch.setattr(step_kernel, "number_of_splits", lambda *_: 2)
    shared, same = steps(*leaves, step, **options)
    assert torch.equal(shared, alone)
    assert all(torch.equal(a, b) for a, b in zip(same, state, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_only_inputs_and_output_are_rounded(dtype):
    leaves = detached(5, 5, 8, 8, dtype=dtype)
    out, state = steps(*leaves, momentum_attention_step, momentum=0.99, step_size=0.7, in_place=True)
    assert out.dtype == dtype and {x.dtype for x in state} == {torch.float32}
    assert_exact([out], oracle(leaves, momentum=0.99, step_size=0.7), LIMITS[dtype])


def test_a_momentum_and_a_step_size_a_head():
    leaves = detached(4, 4, 8, 8, heads=2)
    numbers = dict(momentum=torch.tensor([0.3, 0.95], device=DEVICE), step_size=torch.tensor([0.5, 2.0], device=DEVICE))
    out, _ = steps(*leaves, momentum_attention_step, **numbers)
    doubles = {name: x.double() for name, x in numbers.items()}
    assert_exact([out], oracle(leaves, **doubles), LIMITS[torch.float32])


@pytest.mark.parametrize("in_place", [False, True])
def test_without_momentum_it_is_linear_attention(in_place):
    leaves = detached(4, 4, 8, 8)
    out, state = steps(*leaves, linear_attention_step, in_place=in_place)
    assert isinstance(state, LinearState)
    assert_exact([out], oracle(leaves, momentum=0.0, step_size=1.0), LIMITS[torch.float32])


def test_the_state_is_that_of_torch(monkeypatch):
    leaves = detached(4, 4, 8, 8)
    ours = steps(*leaves, momentum_attention_step, momentum=0.9, step_size=0.7)[1]
    monkeypatch.setenv(VARIABLE, "torch")
    theirs = steps(*leaves, momentum_attention_step, momentum=0.9, step_size=0.7)[1]
    assert isinstance(ours, MomentumState)
    torch.testing.assert_close(tuple(ours), tuple(theirs))


def test_in_place_the_given_state_is_the_new_one_and_otherwise_it_stays():
    q, k, v = (x[:, :, 0] for x in detached(1, 1, 8, 8))
    _, state = momentum_attention_step(q, k, v, None, momentum=0.9, step_size=0.7)
    before = [x.clone() for x in state]
    _, other = momentum_attention_step(q, k, v, state, momentum=0.9, step_size=0.7)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    _, same = momentum_attention_step(q, k, v, state, momentum=0.9, step_size=0.7, in_place=True)
    assert [x.data_ptr() for x in same] == [x.data_ptr() for x in state]
    assert all(torch.equal(a, b) for a, b in zip(same, other, strict=True))


def test_the_feature_map_may_be_taken_on_the_way():
    q, k, v = (x[:, :, 0].detach() for x in inputs(1, 1, 8, 9, mapped=False))
    numbers = dict(momentum=0.9, step_size=0.7)
    out, _ = step_kernel.step(q, k, v, None, mapped=False, **numbers)
    expected, _ = momentum_attention_step(elu_plus_one(q), elu_plus_one(k), v, None, **numbers)
    fused, _ = momentum_attention_step(q, k, v, None, feature_map=elu_plus_one, **numbers)
    assert torch.equal(fused, out)
    torch.testing.assert_close(out, expected)


def test_inputs_of_any_strides_give_the_same():
    q, k, v = (x[:, :, 0] for x in detached(1, 1, 8, 8, batch=1))
    expected, _ = momentum_attention_step(q, k, v, None, momentum=0.9, step_size=0.7)
    views = [x.transpose(1, 2).contiguous().transpose(1, 2).expand(3, -1, -1) for x in (q, k, v)]
    out, _ = momentum_attention_step(*views, None, momentum=0.9, step_size=0.7)
    assert torch.equal(out, expected.expand(3, -1, -1))


def test_a_state_of_any_strides_gives_the_same():
    q, k, v = (x[:, :, 0] for x in detached(1, 1, 8, 8))
    state = MomentumState(draw(2, 1, 8, 8, seed=4), draw(2, 1, 8, 8, seed=5), draw(2, 1, 8, seed=6).exp())
    views = MomentumState(*(x.transpose(0, -1).contiguous().transpose(0, -1) for x in state))
    numbers = dict(momentum=0.9, step_size=0.7)
    (out, after), (expected, last) = (momentum_attention_step(q, k, v, x, **numbers) for x in (views, state))
    assert all(torch.equal(a, b) for a, b in zip((out, *after), (expected, *last), strict=True))


def test_the_rounding_of_a_momentum_near_one_is_not_added_up():
    """The nearest float32 is 3e-8 off: by as much m would be wrong after each step, always to the same side."""
    momentum, k = 1 - 1.5 * 2**-24, torch.zeros(1, 1, 64, device=DEVICE)
    m = 1 + draw(1, 1, 64, 64).abs()
    state = MomentumState(torch.zeros_like(m), m, torch.ones_like(k))
    _, after = momentum_attention_step(torch.ones_like(k), k, k, state, momentum=momentum, step_size=1.0)
    assert abs((after.m.double() / m.double()).mean().item() - momentum) < 5e-9


def test_where_gradients_are_taken_torch_takes_them():
    q, k, v = inputs(3, 3, 8, 8)
    out, _ = steps(q, k, v, momentum_attention_step, momentum=0.9, step_size=0.7)
    oracle = recurrent_momentum_attention(q, k, v, momentum=0.9, step_size=0.7)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), [q, k, v]), torch.autograd.grad(oracle.sum(), [q, k, v]))


@pytest.mark.parametrize("field", MomentumState._fields)
def test_so_they_are_where_the_state_alone_takes_one(field):
    q, k, v = (x[:, :, 0] for x in detached(1, 1, 8, 8))
    state = momentum_attention_step(q, k, v, None, momentum=0.9, step_size=0.7)[1]
    getattr(state, field).requires_grad_()
    out, _ = momentum_attention_step(q, k, v, state, momentum=0.9, step_size=0.7)
    (gradient,) = torch.autograd.grad(out.sum(), getattr(state, field))
    assert gradient.any()


@pytest.mark.parametrize("learned", ["momentum", "step_size"])
def test_so_they_are_where_a_number_alone_takes_one(learned):
    q, k, v = (x[:, :, 0] for x in detached(1, 1, 8, 8))
    numbers = {name: torch.tensor([number], device=DEVICE) for name, number in (("momentum", 0.9), ("step_size", 0.7))}
    numbers[learned].requires_grad_()
    state = MomentumState(*(x.detach() for x in momentum_attention_step(q, k, v, None, **numbers)[1]))
    out, _ = momentum_attention_step(q, k, v, state, **numbers)
    (gradient,) = torch.autograd.grad(out.sum(), numbers[learned])
    assert gradient.any()


def test_a_nan_stays_in_its_sentence():
    q, k, v = (x[:, :, 0] for x in detached(1, 1, 8, 8))
    k[1, 0, 3] = math.nan
    out, state = momentum_attention_step(q, k, v, None, momentum=0.9, step_size=0.7)
    assert out[1].isnan().all() and out[0].isfinite().all()
    assert state.z[1].isnan().any() and state.z[0].isfinite().all()


def test_an_empty_batch_gives_an_empty_one():
    out, state = momentum_attention_step(*(draw(0, 2, n) for n in (4, 4, 3)), None, momentum=0.9, step_size=0.7)
    assert out.shape == (0, 2, 3) and state.s.shape == (0, 2, 4, 3)


def test_tensors_on_several_devices_are_refused():
    q, k, v = (x[:, :, 0] for x in detached(1, 1, 8, 8))
    with pytest.raises(ValueError, match="one device"):
        momentum_attention_step(q, k.to("meta"), v, None, momentum=0.9, step_size=0.7)


def test_torch_compile_traces_it_whole():
    q, k, v = (x[:, :, 0] for x in detached(1, 1, 8, 8))
    state = momentum_attention_step(q, k, v, None, momentum=0.9, step_size=0.7)[1]

    def twice(q, k, v, s, m, z):
        state = MomentumState(s, m, z)
        for _ in range(2):
            out, state = momentum_attention_step(q, k, v, state, momentum=0.9, step_size=0.7)
        return out, *state

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(q, k, v, *state), twice(q, k, v, *state), strict=True))


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a GPU")
def test_a_cuda_graph_holds_it():
    q, k, v = (x[:, :, 0].contiguous() for x in detached(1, 1, 8, 8))
    numbers = dict(momentum=0.9, step_size=0.7)
    _, state = momentum_attention_step(q, k, v, None, **numbers)
    expected = [x.clone() for x in state]
    step_kernel.step(q, k, v, tuple(x.clone() for x in state), in_place=True, **numbers)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step_kernel.step(q, k, v, tuple(state), in_place=True, **numbers)
    for _ in range(3):
        graph.replay()
        _, expected = momentum_attention_step(q, k, v, MomentumState(*expected), **numbers)
    assert all(torch.equal(a, b) for a, b in zip(state, expected, strict=True))
