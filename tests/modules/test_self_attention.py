"""Self-attention of every kind, with sizes at which each one approximates: padding, precision, what may not be a number."""

import pytest
import torch

from momentum_fairseq.modules import ATTENTION_KINDS, AttentionOptions, MultiheadAttention
from momentum_fairseq.modules.attention_kind import AttentionPlace, AttentionSizes
from momentum_fairseq.modules.causal_attention import has_causal_form
from momentum_fairseq.ops.random_feature_attention import random_feature_attention, trigonometric_features

SIZES = {
    "performer": {"features": 16},
    "rfa": {"features": 16},
    "linformer": {"projected_length": 6},
    "nystrom": {"landmarks": 4},
    "reformer": {"hashes": 3, "bucket": 8},
    "transnormer": {"block": 8},
}
# TransNormer's two halves: DiagAttention in layer 0 of 2, NormAttention in layer 1.
VARIANTS = [(kind, 1) for kind in sorted(ATTENTION_KINDS)] + [("transnormer", 0)]


def attention(kind: str, layer: int = 1, seed: int = 1, **options) -> MultiheadAttention:
    torch.manual_seed(seed)
    place = AttentionPlace(layer=layer, layers=2, max_length=80)
    sizes = AttentionSizes(**SIZES.get(kind, {}))
    return MultiheadAttention(12, 2, AttentionOptions(kind=kind, sizes=sizes, place=place, **options), self_attention=True).eval()


def padded(x: torch.Tensor, left: int, right: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sentence `[1,N,C]` among garbage, beside a full one and an empty one, and the mask."""
    length = x.shape[1]
    batch = 5 * torch.randn(3, left + length + right, 12, dtype=x.dtype)
    batch[:1, left : left + length] = x
    mask = torch.zeros(batch.shape[:2], dtype=torch.bool)
    mask[0, :left] = mask[0, left + length :] = mask[2] = True
    return batch, mask


@pytest.mark.parametrize(("left", "right"), [(13, 0), (0, 13), (2, 3)])
@pytest.mark.parametrize("length", [1, 30, 63])
@pytest.mark.parametrize(("kind", "layer"), VARIANTS)
def test_padding_on_either_side_and_batch_mates_change_nothing(kind, layer, length, left, right):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        module = attention(kind, layer).to(dtype)
        x = torch.randn(1, length, 12, dtype=dtype)
        batch, mask = padded(x, left, right)
        out = module(batch, batch, batch, mask)
        torch.testing.assert_close(out[:1, left : left + length], module(x, x, x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("kind", "layer"), VARIANTS)
def test_an_empty_row_reads_zeros_and_has_finite_gradients(kind, layer):
    module = attention(kind, layer)
    batch, mask = padded(torch.randn(1, 5, 12), 2, 9)
    projections = module.project_query, module.project_key, module.project_value
    q, k, v = (project(batch).detach().requires_grad_() for project in projections)
    out = module.attention(q, k, v, mask)
    assert (out[2] == 0).all()
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v), allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("length", [1, 63, 65])
@pytest.mark.parametrize(("kind", "layer"), VARIANTS)
def test_every_parameter_gets_a_finite_gradient_at_any_length(kind, layer, length):
    module = attention(kind, layer).train()
    x = torch.randn(2, length, 12)
    module(x, x, x).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize(("kind", "layer"), VARIANTS)
def test_evaluation_is_deterministic_and_a_saved_model_computes_the_same(kind, layer):
    module, x = attention(kind, layer), torch.randn(2, 30, 12)
    other = attention(kind, layer, seed=7)
    other.load_state_dict(module.state_dict())
    for same in (module, other):
        torch.testing.assert_close(same(x, x, x), module(x, x, x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "layer"), VARIANTS)
def test_half_precision_of_the_inputs_is_all_that_is_lost(kind, layer, dtype):
    """Sums are in float32: from the same rounded q, k, v the output differs from float32's by its own rounding alone."""
    module = attention(kind, layer).attention
    q, k, v = torch.randn(3, 2, 2, 65, 6).to(dtype)
    q = k if kind == "reformer" else q
    mask = torch.arange(65) >= torch.tensor([[65], [40]])
    out = module(q, k, v, mask)
    expected = module(q.float(), k.float(), v.float(), mask)
    assert out.dtype == dtype
    real = ~mask[:, None, :, None].expand_as(out)
    rounding = torch.finfo(dtype).eps
    own = 4 if kind == "softmax" else 1  # torch's kernel computes in the dtype it is given
    scale = expected.abs().max().item()
    torch.testing.assert_close(out[real].float(), expected[real], rtol=own * rounding, atol=own * rounding * scale)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layer in VARIANTS if kind != "softmax"])
def test_between_the_projections_autocast_changes_nothing(kind, layer):
    """Of softmax attention torch's own kernel computes in lower precision then."""
    module = attention(kind, layer).attention
    q, k, v = torch.randn(3, 2, 2, 30, 6)
    q = k if kind == "reformer" else q
    mask = torch.arange(30) >= torch.tensor([[30], [20]])

    def forms():
        found = [module(q, k, v, mask), module.recall(q, module.remember(k, v, mask))]
        found.append(module.weigh(v, module.pattern(q, k, mask)))
        if has_causal_form(type(module)):
            first, state = module.step(q[:, :, :1], k[:, :, :1], v[:, :, :1], None, None)
            second, _ = module.step(q[:, :, 1:2], k[:, :, 1:2], v[:, :, 1:2], None, state)
            found += [module.causal(q, k, v, mask), first, second]
        return found

    expected = forms()
    with torch.autocast("cpu", torch.bfloat16):
        found = forms()
    assert all(torch.equal(ours, other) for ours, other in zip(found, expected, strict=True))


def test_performer_reads_long_keys_in_every_form():
    """Features of so long keys are tiny: an eps as linear attention's would leave zeros."""
    torch.manual_seed(1)
    module = ATTENTION_KINDS["performer"](2, AttentionOptions(kind="performer", place=AttentionPlace(head_dim=32)))
    q, k, v = 3 * torch.randn(3, 1, 2, 9, 32)
    weights = module.map_query(q.double()) @ module.map_key(k.double()).transpose(-1, -2)
    expected, causal = ((x / x.sum(-1, keepdim=True) @ v.double()).float() for x in (weights, weights.tril()))
    kept = module.recall(q, module.remember(k, v, None)), module.weigh(v, module.pattern(q, k, None))
    for out in (module(q, k, v, None), *kept):
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)
    first, state = module.step(q[:, :, :1], k[:, :, :1], v[:, :, :1], None, None)
    second, state = module.step(q[:, :, 1:2], k[:, :, 1:2], v[:, :, 1:2], None, state)
    rest, _ = module.step(q[:, :, 2:], k[:, :, 2:], v[:, :, 2:], None, state)
    for out in (module.causal(q, k, v, None), torch.cat([first, second, rest], dim=2)):
        torch.testing.assert_close(out, causal, rtol=1e-3, atol=1e-3)


def test_rfa_scales_each_feature_of_each_heads_directions():
    module = attention("rfa").attention
    torch.nn.init.uniform_(module.scale, 0.5, 2.0)
    q, k, v = torch.randn(3, 2, 2, 9, 6)
    omega = torch.stack([module.directions()[head] * module.scale[head] for head in range(2)])
    expected = random_feature_attention(trigonometric_features(q, omega), trigonometric_features(k, omega), v)
    torch.testing.assert_close(module(q, k, v, None), expected)


def test_the_keys_of_reformers_self_attention_are_its_queries():
    shared, apart = attention("reformer"), MultiheadAttention(12, 2, AttentionOptions(kind="reformer"))
    assert shared.k_proj is shared.q_proj and apart.k_proj is not apart.q_proj
    assert {name for name, _ in shared.named_parameters()} == {
        f"{part}_proj.{name}" for part in ("q", "v", "out") for name in ("weight", "bias")
    }


def test_linformers_projections_start_as_the_papers_code_has_them():
    """Uniform up to √(3 / (P + L))."""
    module = attention("linformer").attention
    for projection in (module.key_projection, module.value_projection):
        assert 0.9 < projection.abs().max() / (3 / sum(projection.shape)) ** 0.5 <= 1


def test_transnormer_has_blocks_in_the_first_half_of_its_layers_and_for_one_sequence_only():
    for layers, expected in ((1, [False]), (2, [True, False]), (5, [True, True, False, False, False])):
        for self_attention in (True, False):
            kinds = [
                MultiheadAttention(
                    12,
                    2,
                    AttentionOptions(kind="transnormer", place=AttentionPlace(layer=layer, layers=layers)),
                    self_attention=self_attention,
                ).attention.diagonal
                for layer in range(layers)
            ]
            assert kinds == (expected if self_attention else [False] * layers)


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("softmax", {"features": 8}, "softmax attention has no features \\(got 8\\); it has no sizes"),
        ("momentum", {"block": 8}, "momentum attention has no block"),
        ("performer", {"landmarks": 8}, "performer attention has no landmarks .*; it has features, redraw_interval alone"),
        ("rfa", {"hashes": 2}, "rfa attention has no hashes"),
        ("linformer", {"redraw_interval": 8}, "linformer attention has no redraw_interval"),
        ("nystrom", {"landmarks": 0}, "landmarks of nystrom attention must be at least 1, got 0"),
        ("reformer", {"bucket": -4}, "bucket of reformer attention must be at least 1, got -4"),
        ("reformer", {"redraw_interval": -1}, "redraw_interval of reformer attention must be at least 0, got -1"),
        ("transnormer", {"bucket": 8}, "transnormer attention has no bucket"),
    ],
)
def test_a_size_that_a_kind_does_not_have_or_can_not_be_is_refused(kind, sizes, message):
    with pytest.raises(ValueError, match=message):
        MultiheadAttention(12, 2, AttentionOptions(kind=kind, sizes=AttentionSizes(**sizes)))


def test_sizes_that_are_not_given_are_the_kinds_own():
    """Those of the table of flags."""
    kinds = {
        kind: MultiheadAttention(
            12, 2, AttentionOptions(kind=kind, place=AttentionPlace(layers=2, max_length=1000)), self_attention=True
        ).attention
        for kind in SIZES
    }
    assert kinds["performer"].directions.values.shape == (2, 256, 6)
    assert kinds["rfa"].directions.values.shape == (2, 64, 6)
    assert [kinds[kind].directions.interval for kind in ("performer", "rfa")] == [1000, 1000]
    assert kinds["linformer"].key_projection.shape == kinds["linformer"].value_projection.shape == (256, 1000)
    assert kinds["nystrom"].landmarks == 64
    assert kinds["transnormer"].block == 64
    assert (kinds["reformer"].chunk, kinds["reformer"].rotations.interval) == (64, 1000)
    assert kinds["reformer"].rotations.values.shape == (2, 4, 6, 8)  # of 16 chunks, half as many columns


@pytest.mark.parametrize(("kind", "sizes"), [(kind, dict.fromkeys(SIZES[kind], 1)) for kind in sorted(SIZES)])
def test_every_size_may_be_one(kind, sizes):
    module = MultiheadAttention(12, 2, AttentionOptions(kind=kind, sizes=AttentionSizes(**sizes)), self_attention=True)
    x = torch.randn(2, 5, 12)
    assert module(x, x, x).isfinite().all()


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_a_sentence_of_the_greatest_length_is_read(kind):
    options = AttentionOptions(kind=kind, sizes=AttentionSizes(**SIZES[kind]), place=AttentionPlace(max_length=25))
    for self_attention in (False, True):
        module, x = MultiheadAttention(12, 2, options, self_attention=self_attention), torch.randn(2, 25, 12)
        assert module(x, x, x).isfinite().all()


@pytest.mark.parametrize("kind", ["performer", "reformer", "rfa"])
def test_a_redraw_interval_of_zero_is_taken(kind):
    module = MultiheadAttention(12, 2, AttentionOptions(kind=kind, sizes=AttentionSizes(redraw_interval=0)))
    assert [part.interval for part in module.modules() if hasattr(part, "interval")] == [0]


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_a_kind_without_momentum_can_not_learn_it(kind):
    with pytest.raises(ValueError, match=f"{kind} attention has no momentum to learn"):
        attention(kind, momentum_learned=True)
