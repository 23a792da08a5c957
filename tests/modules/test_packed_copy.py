"""Copies with packed weights decode as the modules themselves do, and are made only where nobody takes gradients."""

import pytest
import torch

from momentum_fairseq.modules import AttentionOptions, CausalDecoderLayer, LayerOptions
from momentum_fairseq.modules.packed_copy import packed_copy
from momentum_fairseq.modules.packed_linear import HAS_ONEDNN
from momentum_fairseq.modules.transformer_layer import Velocities


def layer(kind: str = "momentum", **options) -> CausalDecoderLayer:
    torch.manual_seed(1)
    return CausalDecoderLayer(LayerOptions(48, 64, 2, attention=AttentionOptions(kind=kind), **options)).eval()


def by_steps(module: CausalDecoderLayer, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The outputs for positions one at a time, `[B,N,C]`, of a state that `module` or what it was copied from has started."""
    state, outputs = module.start(source, None), []
    for position in x.unbind(1):
        out, state = module.step(position.unsqueeze(1), None, state, Velocities())
        outputs.append(out)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("feed_forward", ["residual", "highway"])
@pytest.mark.parametrize("kind", ["softmax", "linear", "momentum"])
def test_a_copy_gives_what_the_layer_gives(kind, feed_forward):
    module, x, source = layer(kind, feed_forward=feed_forward), torch.randn(3, 7, 48), torch.randn(3, 5, 48)
    with torch.no_grad():
        expected = module(x, None, source, None, Velocities())
        torch.testing.assert_close(by_steps(packed_copy(module), x, source), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
def test_a_copy_is_packed_and_the_layer_is_not_and_they_share_their_parameters():
    module = layer()
    with torch.no_grad():
        copied = packed_copy(module)
    assert copied.self_attn.qkv_proj.packed is not None and copied.encoder_attn.q_proj.packed is not None
    assert module.self_attn.qkv_proj.packed is None and module.encoder_attn.q_proj.packed is None
    assert copied.self_attn.out_proj.weight is module.self_attn.out_proj.weight
    assert list(copied.state_dict()) == list(module.state_dict())


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
def test_a_copy_made_after_the_weights_have_changed_has_the_new_ones():
    module, x, source = layer(), torch.randn(2, 3, 48), torch.randn(2, 5, 48)
    with torch.no_grad():
        packed_copy(module)
        module.self_attn.q_proj.weight.mul_(3)
        module.feed_forward.get_submodule("ffn.0").weight.mul_(2)
        expected = module(x, None, source, None, Velocities())
        torch.testing.assert_close(by_steps(packed_copy(module), x, source), expected, rtol=1e-5, atol=1e-5)


def test_a_layer_that_trains_or_takes_gradients_or_runs_under_autocast_is_not_copied():
    module = layer()
    assert packed_copy(module) is module
    with torch.no_grad(), torch.autocast("cpu"):
        assert packed_copy(module) is module
    with torch.no_grad():
        assert packed_copy(module.train()) is module
