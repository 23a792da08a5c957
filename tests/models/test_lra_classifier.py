"""The classifier: neither padding nor batch mates change its logits; presets as the papers have them; its checkpoints."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fairseq import models, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import setup_task
from torch import Tensor, nn

from momentum_fairseq.models.lra_classifier import PROTOCOL, LraClassifierConfig, LraClassifierModel
from momentum_fairseq.modules import ATTENTION_KINDS, CONNECTIONS
from tests.lra_sets import write_set

PAD = 0
ALL = [(attention, "residual") for attention in sorted(ATTENTION_KINDS)] + [("momentum", name) for name in sorted(CONNECTIONS)]
TINY = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "dropout": 0.0, "classifier_dim": 8}
Build = Callable[..., LraClassifierModel]
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'config' is validated:UserWarning")  # hydra 1.1 and later


def build(towers: int = 1, **values: Any) -> LraClassifierModel:
    """A tiny model in evaluation mode and float64, seeded; keyword arguments are fields of its config."""
    torch.manual_seed(1)
    limits = {"max_source_positions": 20, "max_target_positions": 20}
    config = LraClassifierConfig(**{**PROTOCOL, **TINY, **limits, **values})
    return LraClassifierModel(config, vocabulary=10, classes=3, towers=towers).double().eval()


def rows(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(1, 10, (length,), generator=generator) for length in lengths]


def pad(sequences: list[Tensor], width: int, left: bool) -> Tensor:
    """int64 `[B, width]`."""
    return torch.stack([F.pad(r, (width - len(r), 0) if left else (0, width - len(r)), value=PAD) for r in sequences])


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_padding_on_either_side_and_batch_mates_change_no_logits(attention, connection):
    model, sequences = build(attention=attention, connection=connection), rows(6, 3, 11, 1)
    alone = torch.cat([model([row[None]])["logits"] for row in sequences])
    for left in (False, True):
        for width in (11, 20):
            together = model([pad(sequences, width, left)])["logits"]
            torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def test_transnormer_reads_blocks_in_the_first_layer_of_two():
    assert [layer.self_attn.attention.diagonal for layer in build(attention="transnormer").layers] == [True, False]


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_every_parameter_learns_from_a_padded_batch(attention, connection):
    model = build(attention=attention, connection=connection).train()
    F.cross_entropy(model([pad(rows(6, 3, 11), 12, False)])["logits"], torch.tensor([0, 1, 2])).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


def test_tokens_and_positions_start_from_a_deviation_of_two_hundredths_and_padding_from_zero():
    model = build(embed_dim=64)
    for weight in (model.embedding.weight[1:], model.positions.table):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (model.embedding.weight[PAD] == 0).all()


def test_the_order_of_the_tokens_counts():
    model, (row,) = build(), rows(8)
    assert (model([row[None]])["logits"] - model([row.flip(0)[None]])["logits"]).abs().max() > 1e-6


def test_logits_are_the_classifier_of_the_mean_of_the_normalised_real_positions():
    model, sequences = build(), rows(6, 3)
    model.layers = nn.ModuleList()
    found = model([pad(sequences, 8, True)])["logits"]
    for row, logits in zip(sequences, found, strict=True):
        x = model.embedding.weight[row] + model.positions.table[: len(row)]
        mean = F.layer_norm(x, (12,), model.layer_norm.weight, model.layer_norm.bias).mean(0)
        first, _, last = model.classifier
        expected = last.weight @ (first.weight @ mean + first.bias).clamp(min=0) + last.bias
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_two_sequences_are_read_each_by_itself_and_compared_by_product_and_difference():
    model, (a, b) = build(towers=2), rows(6, 9)
    first, second = pad([a, b], 9, False), pad([b, a], 12, True)
    found = model([first, second])["logits"]
    means = torch.cat([model.encode(row[None]) for row in (a, b)])
    for i, j in ((0, 1), (1, 0)):
        features = torch.cat([means[i], means[j], means[i] * means[j], means[i] - means[j]])
        torch.testing.assert_close(found[i], model.classifier(features), rtol=0, atol=1e-12)


def test_what_it_was_not_built_for_is_refused():
    with pytest.raises(ValueError, match="2 sequences given to a model of 1"):
        build()(rows(3, 3))
    with pytest.raises(ValueError, match="21 positions asked for, but the model was built for 20"):
        build()([rows(21)[0][None]])
    with pytest.raises(ValueError, match="has one embedding and shares it with nothing"):
        build(share_all_embeddings=True)


# presets, command line, checkpoints


@pytest.fixture
def from_command_line(tmp_path) -> Callable[..., LraClassifierModel]:
    """The model for a command line, on a tiny set."""

    def run(name: str, *arguments: str) -> LraClassifierModel:
        folder = write_set(tmp_path / name, towers=2 if name == "retrieval" else 1)
        line = [str(folder), "--task=lra", f"--lra-task={name}", *arguments]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))
        return models.build_model(cfg.model, setup_task(cfg.task))

    return run


@pytest.mark.parametrize(
    ("name", "length", "momentum", "step_size", "adaptive_step_size"),
    [
        ("listops", 2000, 0.1, 0.6, 0.4),
        ("text", 4000, 0.6, 2.0, 0.001),
        ("retrieval", 4000, 0.6, 1.0, 0.5),
        ("image", 1024, 0.9, 0.9, 0.001),
        ("pathfinder", 1024, 0.3, 0.1, 0.8),
    ],
)
def test_the_presets_are_the_protocol_with_the_numbers_of_table_1(
    from_command_line, name, length, momentum, step_size, adaptive_step_size
):
    model = from_command_line(name, f"--arch=lra_classifier_{name}", "--connection=adaptive")
    assert len(model.layers) == 2 and model.positions.table.shape == (length, 64)
    assert isinstance(model.layer_norm, torch.nn.LayerNorm)
    for layer in model.layers:
        made = layer.options
        assert (made.embed_dim, made.ffn_dim, made.num_heads, made.dropout) == (64, 128, 2, 0.1)
        assert (made.normalize_before, made.activation, made.feed_forward) == (True, "gelu", "residual")
        assert (made.attention.momentum, made.attention.step_size) == (momentum, step_size)
        assert made.connection.step_size == adaptive_step_size
    assert model.classifier[0].weight.shape == (128, 256 if name == "retrieval" else 64)
    assert model.max_positions() == length


def test_all_kinds_but_linformer_have_equal_sizes_within_a_tenth():
    """Linformer has projections over the positions on top, as its paper has."""
    sizes = {}
    for kind in sorted(ATTENTION_KINDS.keys() - {"linformer"}):
        model = build(attention=kind, **PROTOCOL, max_source_positions=2000, max_target_positions=2000, classifier_dim=128)
        sizes[kind] = sum(p.numel() for p in model.parameters())
    assert max(sizes.values()) <= 1.1 * min(sizes.values()), sizes


def test_the_command_line_wins_over_the_preset(from_command_line):
    arguments = ["--layers=1", "--attention=linear", "--max-positions=50", "--classifier-dim=7"]
    model = from_command_line("text", "--arch=lra_classifier_text", *arguments)
    assert (len(model.layers), model.positions.table.shape, model.classifier[0].out_features) == (1, (50, 64), 7)
    assert model.layers[0].options.attention.kind == "linear"


def test_the_presets_belong_to_the_model():
    names = {name for name, model in ARCH_MODEL_REGISTRY.items() if model is LraClassifierModel}
    assert names == {"lra_classifier", *(f"lra_classifier_{t}" for t in ("listops", "text", "retrieval", "image", "pathfinder"))}


def test_a_state_loads_into_an_equal_model_and_no_other():
    state = build(attention="linear").state_dict()
    build(attention="linear", dropout=0.5).load_state_dict(state)
    with pytest.raises(ValueError, match="the checkpoint has attention=linear; the model was built with attention=momentum"):
        build().load_state_dict(state)
