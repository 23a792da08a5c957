"""Presets: command line > preset > the config's default, through fairseq's own option parser and from a checkpoint."""

import pickle
from argparse import Namespace

import pytest
import torch
from fairseq import checkpoint_utils, models, options
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf

from momentum_fairseq.models.momentum_nat import MomentumNatConfig, MomentumNatModel
from momentum_fairseq.models.presets import register_presets

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'config' is validated:UserWarning")  # hydra 1.1 and later

PRESETS = ["momentum_nat_iwslt16_en_de", "momentum_nat_multi30k", "momentum_nat_tiny"]


@pytest.fixture
def config(corpus):
    """fairseq's config for a command line."""

    def parse(*arguments: str):
        line = [str(corpus / "bin"), "--task=translation_nat", "--source-lang=src", "--target-lang=tgt", *arguments]
        return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))

    return parse


@pytest.fixture
def build(config, build_task):
    """The model for a command line."""
    return lambda *arguments: models.build_model(config(*arguments).model, build_task())


def test_the_presets_are_registered_for_the_model():
    assert {name for name, model in ARCH_MODEL_REGISTRY.items() if model is MomentumNatModel} == {
        "momentum_nat",
        *PRESETS,
    }


def test_the_preset_of_the_paper_has_its_sizes(build):
    model = build("--arch=momentum_nat_iwslt16_en_de")
    layer = model.decoder2.layers[0]
    assert len(model.encoder.layers) == len(model.decoder1.layers) == len(model.decoder2.layers) == 5
    assert model.target_embedding.weight.shape[1] == 278
    assert layer.feed_forward.ffn[0].weight.shape == (507, 278)
    assert layer.self_attn.num_heads == 2
    assert model.encoder.dropout.p == model.decoder1.dropout.p == layer.dropout.p == layer.feed_forward.dropout.p == 0.1


def test_the_command_line_wins_over_the_preset_and_the_preset_over_the_default(build):
    assert MomentumNatConfig.embed_dim == 256
    cfg = build("--arch=momentum_nat_tiny", "--heads=4").cfg
    assert (cfg.heads, cfg.embed_dim, cfg.layers) == (4, 64, 2)
    assert cfg.attention_momentum == MomentumNatConfig.attention_momentum


def test_a_value_on_the_command_line_that_equals_the_default_still_wins_over_the_preset(build):
    assert build("--arch=momentum_nat_tiny", "--embed-dim=256").cfg.embed_dim == 256


@pytest.mark.parametrize(("given", "expected"), [({}, (64, 2)), ({"embed_dim": 256}, (256, 2))], ids=["preset", "value wins"])
def test_fairseq_hydra_train_takes_a_preset_by_its_name(build_task, given, expected):
    """Its config file names one as `model: {_name: …}`; a value there wins, also one that equals the config's default."""
    cfg = OmegaConf.create({"task": {"_name": "translation_nat"}, "model": {"_name": "momentum_nat_tiny", **given}})
    add_defaults(cfg)
    model = models.build_model(cfg.model, build_task())
    assert (model.target_embedding.embedding_dim, len(model.encoder.layers)) == expected
    again = pickle.loads(pickle.dumps(model))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_without_a_preset_the_command_line_wins_over_the_default(build):
    cfg = build("--arch=momentum_nat", "--layers=1", "--embed-dim=32", "--connection=adaptive").cfg
    assert (cfg.layers, cfg.embed_dim, cfg.ffn_dim, str(cfg.connection)) == (1, 32, 1024, "adaptive")


@pytest.mark.parametrize("arch", ["momentum_nat", "momentum_nat_tiny"])
def test_every_option_of_the_config_reaches_the_model(build, arch):
    values = {
        "embed-dim": 24, "ffn-dim": 20, "layers": 1, "heads": 3, "dropout": 0.2, "feed-forward": "residual",
        "attention": "linear", "attention-momentum": 0.5, "attention-step-size": 0.4, "connection": "momentum",
        "attention-feature-map": "squared_relu", "connection-momentum": 0.1, "connection-step-size": 0.8,
        "connection-delta": 0.01, "connection-ratio": "velocity", "connection-chain": "separate",
        "max-length-offset": 7,
    }  # fmt: skip
    flags = ["--normalize-before", "--share-decoder-input-output-embed"]
    model = build(f"--arch={arch}", *[f"--{name}={value}" for name, value in values.items()], *flags)
    layer = model.decoder1.layers[0]
    made, connection = layer.options, layer.connection
    assert (made.embed_dim, made.ffn_dim, made.num_heads, made.dropout) == (24, 20, 3, 0.2)
    assert (made.feed_forward, made.chain, made.normalize_before) == ("residual", "separate", True)
    assert (made.attention.kind, made.attention.feature_map) == ("linear", "squared_relu")
    assert (made.attention.momentum, made.attention.step_size) == (0.5, 0.4)
    assert (connection.momentum, connection.step_size) == (0.1, 0.8)
    assert (made.connection.delta, made.connection.ratio) == (0.01, "velocity")
    assert len(model.decoder1.layers) == 1
    assert model.length_predictor.max_offset == 7
    assert model.output_projection.weight is model.target_embedding.weight


def test_learned_momentum_is_reached_from_the_command_line(build):
    names = {name for name, _ in build("--arch=momentum_nat_tiny", "--attention-momentum-learned").named_parameters()}
    assert "decoder1.layers.0.positional_attn.attention.momentum_logit" in names


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--attention-momentum=1.5", "momentum must be in [0, 1), got 1.5"),
        ("--attention-momentum=-0.5", "momentum must be in [0, 1), got -0.5"),
        ("--attention-step-size=0", "step_size must be positive and finite, got 0.0"),
        ("--connection-momentum=1", "connection momentum must be in [0, 1), got 1.0"),
        ("--connection-delta=0", "connection delta must be in (0, 1), got 0.0"),
    ],
)
def test_a_value_out_of_range_is_refused(build, flag, message):
    with pytest.raises(ValueError) as error:
        build("--arch=momentum_nat_tiny", flag)
    assert message in str(error.value)


def test_an_unknown_kind_of_attention_is_refused_with_the_choices(build):
    message = "unknown attention kind .fourier.; choose from linear, .*, or name the plug-in that has it by --user-dir$"
    with pytest.raises(ValueError, match=message):
        build("--arch=momentum_nat_tiny", "--attention=fourier")


@pytest.mark.parametrize("flag", ["--connection=dense", "--arch=momentum_nat_huge"])
def test_an_unknown_connection_or_preset_is_refused_with_the_choices(config, capsys, flag):
    arguments = ["--arch=momentum_nat_tiny", flag] if "arch" not in flag else [flag]
    with pytest.raises(SystemExit):
        config(*arguments)
    error = capsys.readouterr().err
    name, value = flag.removeprefix("--").split("=")
    assert f"invalid choice: '{value}'" in error
    known = {"connection": "adaptive", "arch": "momentum_nat_tiny"}[name]
    assert known in error.split("choose from")[1]


def test_a_preset_with_a_value_for_no_field_is_refused():
    with pytest.raises(ValueError, match=r"preset 'momentum_nat_odd' sets \['width'\], which MomentumNatConfig"):
        register_presets("momentum_nat", MomentumNatConfig, ("translation_nat",), {"momentum_nat_odd": {"width": 3}})
    assert "momentum_nat_odd" not in ARCH_CONFIG_REGISTRY


@pytest.mark.parametrize(
    ("task", "arch", "own"),
    [
        ("copy", "lra_classifier_listops", "lra"),
        ("image_generation", "lra_classifier_image", "lra"),
        ("translation_nat", "lra_classifier", "lra"),
        ("copy", "momentum_nat_tiny", "translation_nat"),
        ("lra", "momentum_nat", "translation_nat"),
        ("image_generation", "momentum_transformer_tiny", "translation"),
        ("language_modeling", "momentum_transformer_tiny", "translation"),
        ("lra", "momentum_lm_tiny", "language_modeling, copy, image_generation"),
        ("translation_nat", "momentum_lm_tiny", "language_modeling, copy, image_generation"),
        ("translation", "momentum_lm", "language_modeling, copy, image_generation"),
    ],
)
def test_a_model_of_another_task_is_refused(task, arch, own):
    line = [*([] if task == "copy" else ["folder"]), f"--task={task}", f"--arch={arch}"]
    with pytest.raises(ValueError, match=rf"--arch {arch} is a model for --task {own}, not {task}$"):
        options.parse_args_and_arch(options.get_training_parser(), line)


def test_a_preset_fills_what_is_absent_and_leaves_what_is_there():
    args = Namespace(heads=7)
    ARCH_CONFIG_REGISTRY["momentum_nat_tiny"](args)
    assert (args.heads, args.embed_dim, args.dropout) == (7, 64, 0.1)
    assert not hasattr(args, "max_source_positions")


@pytest.mark.parametrize("arch", ["momentum_nat", "momentum_nat_tiny"])
def test_a_model_comes_back_from_its_checkpoint_with_its_options(config, build_task, tmp_path, arch):
    """As fairseq-generate loads it: under torch's safe loading, command line > preset > default still holding."""
    cfg = config(f"--arch={arch}", "--layers=1", "--connection=adaptive", "--attention-momentum=0.45")
    model = models.build_model(cfg.model, build_task())
    state = {
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "optimizer_history": [{"num_updates": 0, "optimizer_name": "none", "lr_scheduler_state": {}}],
        "extra_state": {"epoch": 1},
    }
    torch.save(state, tmp_path / "model.pt")
    (loaded,), _ = checkpoint_utils.load_model_ensemble([str(tmp_path / "model.pt")], task=build_task())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, loaded.state_dict()[name]), name
    made = loaded.decoder1.layers[0].options
    assert (len(loaded.decoder1.layers), made.attention.momentum, made.connection.kind) == (1, 0.45, "adaptive")
    assert made.embed_dim == (64 if arch == "momentum_nat_tiny" else 256)
