"""Presets of the autoregressive model, through fairseq's own option parser."""

import pytest
from fairseq import models, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY

from momentum_fairseq.models.momentum_transformer import MomentumTransformerConfig, MomentumTransformerModel

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'config' is validated:UserWarning")  # hydra 1.1 and later

SIZES = {
    "momentum_transformer": (256, 1024, 5, 4),
    "momentum_transformer_tiny": (64, 128, 2, 2),
    "momentum_transformer_multi30k": (256, 512, 3, 4),
    "momentum_transformer_iwslt16_en_de": (278, 507, 5, 2),
    "momentum_transformer_base": (512, 2048, 6, 8),
}


@pytest.fixture
def build(corpus, build_task):
    """The model for a command line."""

    def build(*arguments: str) -> MomentumTransformerModel:
        line = [str(corpus / "bin"), "--task=translation", "--source-lang=src", "--target-lang=tgt", *arguments]
        config = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))
        return models.build_model(config.model, build_task())

    return build


def test_the_presets_are_registered_for_the_model():
    assert {name for name, model in ARCH_MODEL_REGISTRY.items() if model is MomentumTransformerModel} == set(SIZES)


@pytest.mark.parametrize("arch", SIZES)
def test_a_preset_has_its_sizes_and_plain_feed_forwards(build, arch):
    model = build(f"--arch={arch}")
    for part in (model.encoder, model.decoder):
        layer = part.layers[0]
        made = (part.embedding.embedding_dim, layer.feed_forward.ffn[0].out_features, len(part.layers), layer.self_attn.num_heads)
        assert made == SIZES[arch]
        assert (layer.options.feed_forward, layer.options.dropout) == ("residual", 0.1)
    assert model.max_positions() == (1024, 1024)


def test_the_command_line_wins_over_the_preset_and_the_preset_over_the_default(build):
    cfg = build("--arch=momentum_transformer_tiny", "--heads=4", "--ffn-dim=1024", "--attention=softmax").cfg
    assert (cfg.heads, cfg.ffn_dim, cfg.embed_dim, cfg.layers, str(cfg.attention)) == (4, 1024, 64, 2, "softmax")
    assert cfg.attention_momentum == MomentumTransformerConfig.attention_momentum


def test_every_option_of_the_config_reaches_the_layers(build):
    values = {
        "embed-dim": 24, "ffn-dim": 20, "layers": 1, "heads": 3, "dropout": 0.2, "feed-forward": "highway",
        "attention": "linear", "attention-momentum": 0.5, "attention-step-size": 0.4, "connection": "momentum",
        "attention-feature-map": "squared_relu", "connection-momentum": 0.1, "connection-step-size": 0.8,
        "connection-delta": 0.01, "connection-ratio": "velocity", "connection-chain": "separate",
        "max-source-positions": 30, "max-target-positions": 40,
    }  # fmt: skip
    flags = ["--normalize-before", "--share-decoder-input-output-embed"]
    model = build("--arch=momentum_transformer", *[f"--{name}={value}" for name, value in values.items()], *flags)
    for layer in (model.encoder.layers[0], model.decoder.layers[0]):
        made, connection = layer.options, layer.connection
        assert (made.embed_dim, made.ffn_dim, made.num_heads, made.dropout) == (24, 20, 3, 0.2)
        assert (made.feed_forward, made.chain, made.normalize_before) == ("highway", "separate", True)
        assert (made.attention.kind, made.attention.feature_map) == ("linear", "squared_relu")
        assert (made.attention.momentum, made.attention.step_size) == (0.5, 0.4)
        assert (connection.momentum, connection.step_size) == (0.1, 0.8)
        assert (made.connection.delta, made.connection.ratio) == (0.01, "velocity")
    assert model.decoder.output_projection.weight is model.decoder.embedding.weight
    assert model.max_positions() == (30, 40)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--attention-momentum=1.5", "momentum must be in [0, 1), got 1.5"),
        ("--connection-delta=0", "connection delta must be in (0, 1), got 0.0"),
        ("--heads=3", "embed_dim 64 is not a multiple of num_heads 3"),
    ],
)
def test_a_value_out_of_range_is_refused(build, flag, message):
    with pytest.raises(ValueError) as error:
        build("--arch=momentum_transformer_tiny", flag)
    assert message in str(error.value)
