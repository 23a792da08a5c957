"""Attention around kinds chosen by name: what they refuse, what they learn, what padding may not change."""

import pytest
import torch

from momentum_fairseq import ops
from momentum_fairseq.modules import ATTENTION_KINDS, AttentionOptions, MultiheadAttention
from momentum_fairseq.modules.lookup import lookup
from momentum_fairseq.modules.momentum_kind import MomentumAttention
from momentum_fairseq.modules.packed_linear import packed_weights
from momentum_fairseq.ops import FEATURE_MAPS, recurrent_momentum_attention
from tests.modules.attention_cases import KINDS, VARIANTS, attention
from tests.ops.cases import assert_same, padding_mask


def test_the_kinds_of_the_paper_are_there_by_name():
    assert {"linear", "momentum", "softmax"} <= set(KINDS)


@pytest.mark.parametrize(
    ("options", "value", "choices"),
    [
        ({"kind": "fourier"}, "fourier", ATTENTION_KINDS),
        ({"kind": "linear", "feature_map": "cosine"}, "cosine", FEATURE_MAPS),
        ({"kind": "momentum", "feature_map": "cosine"}, "cosine", FEATURE_MAPS),
    ],
)
def test_an_unknown_name_is_refused_with_the_value_and_the_choices(options, value, choices):
    with pytest.raises(ValueError) as error:
        MultiheadAttention(4, 2, AttentionOptions(**options))
    assert repr(value) in str(error.value)
    assert all(name in str(error.value) for name in choices)


def test_looking_up_a_known_name_gives_its_value():
    assert lookup({"a": 1, "b": 2}, "b", "letter") == 2


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="embed_dim 13 is not a multiple of num_heads 2"):
        attention("softmax", dim=13)


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("learned", [False, True])
def test_a_momentum_outside_its_range_is_refused(value, learned):
    with pytest.raises(ValueError, match=f"momentum must be in .* got {value}"):
        attention("momentum", momentum=value, momentum_learned=learned)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("learned", [False, True])
def test_a_step_size_that_is_not_positive_and_finite_is_refused(value, learned):
    with pytest.raises(ValueError, match=f"step_size must be positive and finite, got {value}"):
        attention("momentum", step_size=value, momentum_learned=learned)


def test_learned_numbers_keep_the_digits_of_float64():
    layer = attention("momentum", momentum_learned=True)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    numbers = layer.attention.momentum_logit, layer.attention.step_size_raw
    assert torch.autograd.gradcheck(lambda *_: layer(x, x, x), numbers)


def test_a_learned_momentum_can_not_start_at_zero():
    with pytest.raises(ValueError, match="learned momentum must start inside"):
        attention("momentum", momentum=0.0, momentum_learned=True)


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_a_kind_without_momentum_can_not_learn_it(kind):
    with pytest.raises(ValueError, match=f"{kind} attention has no momentum to learn"):
        attention(kind, momentum_learned=True)


@pytest.mark.parametrize("kind", ["linformer", "nystrom", "performer", "reformer", "rfa", "softmax"])
def test_a_kind_without_a_feature_map_takes_none(kind):
    with pytest.raises(ValueError, match=f"{kind} attention takes no feature map \\(got 'hedgehog'\\)"):
        attention(kind, feature_map="hedgehog")


@pytest.mark.parametrize(("beta", "gamma"), [(0.1, 0.05), (0.6, 0.6), (0.99, 2.0), (0.5, 1000.0)])
def test_learned_values_start_at_the_given_ones(beta, gamma):
    learned = MomentumAttention(3, AttentionOptions(momentum=beta, step_size=gamma, momentum_learned=True))
    shapes = {name: tuple(parameter.shape) for name, parameter in learned.named_parameters()}
    assert shapes == {"momentum_logit": (3,), "step_size_raw": (3,)}
    torch.testing.assert_close(learned.momentum_logit.sigmoid(), torch.full((3,), beta), rtol=1e-6, atol=0)
    gammas = torch.nn.functional.softplus(learned.step_size_raw)
    torch.testing.assert_close(gammas, torch.full((3,), gamma), rtol=1e-6, atol=0)


def test_learned_values_get_gradients_a_head_each_and_fixed_ones_are_no_parameters():
    learned = attention("momentum", momentum_learned=True)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    learned(x, x, x).square().sum().backward()
    for parameter in (learned.attention.momentum_logit, learned.attention.step_size_raw):
        assert parameter.grad.shape == (2,)
        assert (parameter.grad != 0).all()
    assert not list(attention("momentum").attention.parameters())


@pytest.mark.parametrize("shift", [-200.0, -10.0, 10.0, 30.0])
def test_learned_values_stay_in_their_ranges_after_big_updates(shift, monkeypatch):
    learned = attention("momentum", momentum_learned=True).float()
    with torch.no_grad():
        for parameter in learned.attention.parameters():
            parameter += shift
    used = {}

    def spy(*tensors, momentum, step_size, **rest):
        used.update(momentum=momentum, step_size=step_size)
        return ops.momentum_attention(*tensors, momentum=momentum, step_size=step_size, **rest)

    monkeypatch.setattr("momentum_fairseq.modules.momentum_kind.momentum_attention", spy)
    x = torch.randn(2, 5, 12)
    out = learned(x, x, x)
    out.sum().backward()
    assert ((used["momentum"] >= 0) & (used["momentum"] < 1)).all()
    assert (used["step_size"] > 0).all()
    assert out.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in learned.parameters())


def test_each_head_uses_its_own_learned_values():
    """Each equals the oracle with its β and γ."""
    module = MomentumAttention(2, AttentionOptions(momentum_learned=True))
    betas, gammas = torch.tensor([0.2, 0.8]), torch.tensor([0.5, 1.5])
    with torch.no_grad():
        module.momentum_logit.copy_(betas.logit())
        module.step_size_raw.copy_(gammas.expm1().log())
    torch.manual_seed(1)
    q, k, v = torch.randn(3, 2, 2, 7, 5, dtype=torch.float64)
    out, phi = module(q, k, v, None), FEATURE_MAPS["elu"]
    for head in range(2):
        one = slice(head, head + 1)
        values = {"momentum": float(betas[head]), "step_size": float(gammas[head]), "causal": False}
        expected = recurrent_momentum_attention(phi(q[:, one]), phi(k[:, one]), v[:, one], **values)
        torch.testing.assert_close(out[:, one], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("keys", [3, 40])  # fewer and more than a head's features: both orders of contraction
@pytest.mark.parametrize("kind", ["linear", "momentum", "symmetric_momentum"])
def test_a_feature_map_is_taken_of_queries_and_keys(kind, keys, masked, feature_map):
    numbers = {} if kind == "linear" else {"momentum": 0.9, "step_size": 0.4}
    module = ATTENTION_KINDS[kind](2, AttentionOptions(feature_map=feature_map, **numbers))
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 2, keys, 5, dtype=torch.float64) for _ in range(3))
    mask, phi = padding_mask(2, keys, "both") if masked else None, FEATURE_MAPS[feature_map]
    expected = getattr(ops, f"{kind}_attention")(phi(q), phi(k), v, key_padding_mask=mask, **numbers)
    qkv = torch.stack([x.transpose(1, 2) for x in (q, k, v)], dim=2)  # [B,N,3,H,D]
    recalled, weighed = module.recall(q, module.remember(k, v, mask)), module.weigh(v, module.pattern(q, k, mask))
    for out in (module(q, k, v, mask), module.joint(qkv, mask), recalled, weighed):
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "momentum"])
def test_a_named_implementation_computes_queries_keys_and_values_side_by_side_too(kind, monkeypatch):
    module, qkv = attention(kind).attention, torch.randn(2, 3, 3, 2, 6, dtype=torch.float64)
    expected = module.joint(qkv, None)
    monkeypatch.setenv("MOMENTUM_FAIRSEQ_KERNEL", "reference")
    monkeypatch.delattr("momentum_fairseq.modules.feature_map_kind.short_attention")
    assert_same([module.joint(qkv, None)], [expected])


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_head_width_works(kind):
    module = attention(kind, dim=278, heads=2)
    query, source = torch.randn(2, 3, 278, dtype=torch.float64), torch.randn(2, 4, 278, dtype=torch.float64)
    assert module.project_query(query).shape == (2, 2, 3, 139)
    out = module(query, source, source)
    assert out.shape == (2, 3, 278)
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_sentences_of_no_words_and_batches_of_no_sentences_give_nothing(kind, self_attention, shape):
    module = MultiheadAttention(12, 2, AttentionOptions(kind=kind), self_attention=self_attention)
    x, mask = torch.zeros(*shape, 12), torch.zeros(shape, dtype=torch.bool)
    assert module(x, x, x).shape == module(x, x, x, mask).shape == x.shape


def test_softmax_attention_equals_torchs_own_layer():
    ours = attention("softmax")
    theirs = torch.nn.MultiheadAttention(12, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    query, source = torch.randn(2, 3, 12, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False, False], [False] * 5])
    expected, _ = theirs(query, source, source, key_padding_mask=mask)
    torch.testing.assert_close(ours(query, source, source, mask), expected, rtol=1e-10, atol=1e-12)


def check_padding(options: dict, left: int, right: int) -> None:
    """A sentence of 5 among garbage, beside a full one, gives what it gives alone."""
    module = attention(**options)
    query, source = torch.randn(1, 3, 12, dtype=torch.float64), torch.randn(1, 5, 12, dtype=torch.float64)
    batch = 9 * torch.randn(2, left + 5 + right, 12, dtype=torch.float64)
    batch[:1, left : left + 5] = source
    mask = torch.zeros(batch.shape[:2], dtype=torch.bool)
    mask[0, :left] = mask[0, left + 5 :] = True
    out = module(torch.cat([query, torch.randn_like(query)]), batch, batch, mask)
    torch.testing.assert_close(out[:1], module(query, source, source), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("left", "right"), [(4, 0), (0, 4), (2, 3)])
@pytest.mark.parametrize("options", VARIANTS)
def test_padding_on_either_side_and_batch_mates_change_nothing(options, left, right):
    check_padding(options, left, right)


@pytest.mark.parametrize("kind", ["linear", "momentum", "softmax"])
def test_the_padding_check_fails_where_keys_are_not_masked(kind, monkeypatch):
    def unmasked(*tensors, key_padding_mask, **numbers):
        return getattr(ops, f"{kind}_attention")(*tensors, **numbers)

    monkeypatch.setattr(f"momentum_fairseq.modules.{kind}_kind.{kind}_attention", unmasked)
    with pytest.raises(AssertionError, match="not close"):
        check_padding({"kind": kind}, 4, 0)


@torch.no_grad()
@pytest.mark.parametrize("wrong", [torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.uint8), torch.zeros(3, 1, dtype=torch.bool)])
@pytest.mark.parametrize("options", VARIANTS)
def test_a_mask_of_another_dtype_or_shape_is_refused_however_attention_is_called(options, wrong):
    module = attention(**options)
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    calls = (
        lambda: module(x, x, x, wrong),
        lambda: module.remember(x, wrong),
        lambda: module.pattern(x, wrong),
        lambda: module.pattern(x[:1], wrong),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"key_padding_mask must be bool \[B,S\] = \[3,5\]"):
            call()
    with packed_weights(module.float()), pytest.raises(ValueError, match="key_padding_mask must be bool"):
        x = x.float()
        module(x, x, x, wrong)
