"""Packed weights compute what plain ones do, and are never older than the parameters that they are made of."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from momentum_fairseq.modules import ATTENTION_KINDS, FEED_FORWARDS, AttentionOptions, MultiheadAttention
from momentum_fairseq.modules.packed_linear import HAS_ONEDNN, JointLinear, PackedLinear, Packing, packed_weights

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="this torch is built without oneDNN")


def packed(module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """What the module computes with packed weights."""
    with torch.no_grad(), packed_weights(module):
        assert all(part.packed is not None for part in module.modules() if isinstance(part, Packing))
        return module(*inputs)


@pytest.mark.parametrize("rows", [(1,), (3, 7), (300,), (0,)])
def test_a_packed_product_is_the_plain_one(rows):
    torch.manual_seed(1)
    linear, x = PackedLinear(139, 70).eval(), torch.randn(*rows, 139)
    torch.testing.assert_close(packed(linear, x), linear(x).detach(), rtol=1e-5, atol=1e-5)
    strided = torch.randn(*rows, 2 * 139)[..., 139:]
    torch.testing.assert_close(packed(linear, strided), linear(strided).detach(), rtol=1e-5, atol=1e-5)


def test_a_joint_product_is_the_plain_ones_side_by_side_and_has_no_parameters():
    torch.manual_seed(1)
    linears = nn.ModuleList([PackedLinear(20, out).eval() for out in (5, 7, 1)])
    joint, x = JointLinear(linears, "0", "1", "2"), torch.randn(4, 20)
    expected = torch.cat([linear(x) for linear in linears], dim=-1).detach()
    torch.testing.assert_close(packed(joint, x), expected, rtol=1e-5, atol=1e-5)
    assert list(joint.parameters()) == [] and joint.state_dict() == {}


def test_a_joint_product_is_compiled_as_one_graph():
    linears = nn.ModuleList([nn.Linear(20, 5), nn.Linear(20, 7)])
    linears.append(JointLinear(linears, "0", "1"))
    x = torch.randn(4, 20)
    compiled = torch.compile(linears[2], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), linears[2](x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", sorted(FEED_FORWARDS))
def test_a_feed_forward_is_the_same_with_packed_weights(kind):
    torch.manual_seed(1)
    module, x = FEED_FORWARDS[kind](20, 33, dropout=0.1, normalize_before=False).eval(), torch.randn(2, 5, 20)
    torch.testing.assert_close(packed(module, x), module(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(ATTENTION_KINDS))
def test_self_attention_is_the_same_with_packed_weights(kind):
    torch.manual_seed(1)
    module = MultiheadAttention(20, 2, AttentionOptions(kind=kind), self_attention=True).eval()
    x = torch.randn(2, 5, 20)
    torch.testing.assert_close(packed(module, x, x, x), module(x, x, x).detach(), rtol=1e-5, atol=1e-5)


class Adapter(nn.Module):
    """A linear map with another one beside it, as low-rank adapters replace it by."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.beside = linear, nn.Linear(linear.in_features, linear.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.beside(x)


def adapt(parent: nn.Module, name: str) -> None:
    setattr(parent, name, Adapter(parent.get_submodule(name)))


def hook(parent: nn.Module, name: str) -> None:
    parent.get_submodule(name).register_forward_hook(lambda module, inputs, output: 2 * output)


def hook_before(parent: nn.Module, name: str) -> None:
    parent.get_submodule(name).register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def wrap(parent: nn.Module, name: str) -> None:
    linear = parent.get_submodule(name)
    plain = linear.forward
    linear.forward = lambda x: 2 * plain(x)


def prune(parent: nn.Module, name: str) -> None:
    linear = parent.get_submodule(name)
    nn.utils.prune.l1_unstructured(linear, "weight", 0.5)
    with torch.no_grad():
        linear.weight_orig.mul_(2)  # `weight` is made of it when the module is called next


def replace_by_another(parent: nn.Module, name: str) -> None:
    setattr(parent, name, nn.Linear(20, parent.get_submodule(name).out_features))


def leave_out_the_bias(parent: nn.Module, name: str) -> None:
    setattr(parent, name, nn.Linear(20, parent.get_submodule(name).out_features, bias=False))


@pytest.mark.parametrize("change", [adapt, hook, hook_before, wrap, prune, replace_by_another, leave_out_the_bias])
@pytest.mark.parametrize(
    ("part", "name"), [("attention", "q_proj"), ("attention", "v_proj"), ("highway", "ffn.0"), ("highway", "gate.0")]
)
def test_what_becomes_of_a_linear_map_counts_with_packed_weights_too(change, part, name):
    torch.manual_seed(1)
    if part == "highway":
        module, inputs = FEED_FORWARDS[part](20, 33, dropout=0.0, normalize_before=False), 1
    else:
        module, inputs = MultiheadAttention(20, 2, AttentionOptions(), self_attention=True), 3
    x = [torch.randn(2, 5, 20)] * inputs
    before = packed(module.eval(), *x)
    parent, _, child = name.rpartition(".")
    change(module.get_submodule(parent), child)
    with torch.no_grad(), packed_weights(module):
        now = module(*x)
    torch.testing.assert_close(now, module(*x).detach(), rtol=1e-5, atol=1e-5)
    assert (now - before).abs().max() > 1e-3


def train(model: nn.ModuleList) -> None:
    """A step as fairseq's optimisers take it, which write to `.data`."""
    model.train()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    model.eval()


def load(model: nn.ModuleList) -> None:
    model[0].load_state_dict(PackedLinear(20, 5).state_dict())


def write(model: nn.ModuleList) -> None:
    with torch.no_grad():
        model[0].bias.add_(1)


def move(model: nn.ModuleList) -> None:
    model.double()
    write(model)
    model.float()


def replace(model: nn.ModuleList) -> None:
    model[0].weight = nn.Parameter(torch.randn(5, 20))


@pytest.mark.parametrize("change", [train, load, write, move, replace])
def test_packed_weights_follow_every_change_of_the_parameters(change):
    torch.manual_seed(1)
    linear, x = PackedLinear(20, 5).eval(), torch.randn(3, 20)
    linears = nn.ModuleList([linear, PackedLinear(20, 2).eval()])
    joint = JointLinear(linears, "0", "1")
    before = packed(linear, x)
    packed(joint, x)
    change(nn.ModuleList([linear, joint]))
    assert (packed(linear, x) - before).abs().max() > 1e-3
    for now in (packed(linear, x), packed(joint, x)[:, :5]):
        torch.testing.assert_close(now, linear(x).detach(), rtol=1e-5, atol=1e-5)


def test_a_copy_packs_its_own_weights():
    torch.manual_seed(1)
    linear, x = PackedLinear(20, 5).eval(), torch.randn(3, 20)
    packed(linear, x)
    other = copy.deepcopy(linear)
    with torch.no_grad():
        other.weight.mul_(2)
    torch.testing.assert_close(packed(other, x), other(x).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed(linear, x), linear(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"])
def test_a_copy_joins_its_own_linear_maps(copied):
    torch.manual_seed(1)
    module, x = MultiheadAttention(20, 2, AttentionOptions(), self_attention=True).eval(), [torch.randn(2, 5, 20)] * 3
    expected = packed(module, *x)
    other = copied(module)
    module.v_proj = nn.Linear(20, 20)
    torch.testing.assert_close(packed(other, *x), expected, rtol=1e-5, atol=1e-5)
    other.v_proj = nn.Linear(20, 20)
    torch.testing.assert_close(packed(other, *x), other(*x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: MultiheadAttention(20, 2, AttentionOptions(), self_attention=True),
        lambda: FEED_FORWARDS["highway"](20, 33, dropout=0.0, normalize_before=False),
    ],
    ids=["attention", "feed-forward"],
)
def test_a_model_gives_its_memory_back_at_once(build):
    gc.disable()  # which would end a cycle of modules by chance
    try:
        gone = weakref.ref(build())
        assert gone() is None
    finally:
        gc.enable()


def test_only_float32_on_a_cpu_without_gradients_and_without_autocast_is_packed():
    linear = PackedLinear(20, 5).eval()
    with packed_weights(linear):
        assert linear.packed is None
        assert linear(torch.randn(3, 20)).requires_grad
    for dtype in (torch.float64, torch.bfloat16):
        with torch.no_grad(), packed_weights(linear.to(dtype)):
            assert linear.packed is None
    with torch.no_grad(), torch.autocast("cpu"), packed_weights(linear.float()):
        assert linear.packed is None
    elsewhere = PackedLinear(20, 5, device="meta").eval()
    with torch.no_grad(), packed_weights(elsewhere):
        assert elsewhere.packed is None
    with torch.no_grad(), packed_weights(linear):
        assert linear.packed is not None


def test_parameters_made_in_inference_mode_which_hide_their_changes_are_not_packed():
    x = torch.randn(3, 20)
    with torch.inference_mode():
        linear = PackedLinear(20, 5).eval()
        with packed_weights(linear):
            assert linear.packed is None
            linear.weight.mul_(2)
            torch.testing.assert_close(linear(x), x @ linear.weight.T + linear.bias)


def test_nothing_is_packed_after_leaving_by_an_error():
    linear = PackedLinear(20, 5).eval()
    with pytest.raises(RuntimeError, match="shapes"), torch.no_grad(), packed_weights(linear):
        torch.randn(3, 20) @ torch.randn(3, 20)
    assert linear.packed is None
