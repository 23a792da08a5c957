"""What the models of the plug-in have in common: options of their layers and embeddings, and these options in checkpoints."""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II, OmegaConf
from torch import nn

from momentum_fairseq.modules import (
    ACTIVATIONS,
    ATTENTION_KINDS,
    CONNECTIONS,
    FEED_FORWARDS,
    AttentionOptions,
    ConnectionOptions,
    LayerOptions,
)
from momentum_fairseq.modules.attention_kind import AttentionPlace, AttentionSizes
from momentum_fairseq.modules.connections import RATIO_DENOMINATORS
from momentum_fairseq.modules.transformer_layer import CHAINS
from momentum_fairseq.ops import FEATURE_MAPS

# Options that a model may change between one run and the next.
NOT_OF_THE_FUNCTION = ("dropout", "max_source_positions", "max_target_positions")
COUNTS = ("embed_dim", "ffn_dim", "layers", "heads", "max_source_positions", "max_target_positions")


MaybeInt = Optional[int]  # noqa: UP045 (fairseq reads this form alone)


def size(what: str, kinds: str) -> Any:
    """A field for a number that some kinds of attention have and the others refuse."""
    return field(default=None, metadata={"help": f"{what}; default: {kinds}"})


@dataclass
class ModelConfig(FairseqDataclass):
    embed_dim: int = field(default=256, metadata={"help": "width C of embeddings and layers (d_model)"})
    ffn_dim: int = field(default=1024, metadata={"help": "width inside the feed-forward (d_hidden)"})
    layers: int = field(default=5, metadata={"help": "layers in the encoder and in each decoder"})
    heads: int = field(default=4, metadata={"help": "attention heads"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on embeddings and sub-layer outputs"})
    normalize_before: bool = field(default=False, metadata={"help": "LayerNorm before each sub-layer, not after"})
    feed_forward: ChoiceEnum(list(FEED_FORWARDS)) = field(default="residual", metadata={"help": "feed-forward kind"})
    feed_forward_activation: ChoiceEnum(list(ACTIVATIONS)) = field(
        default="relu", metadata={"help": "activation inside the feed-forward"}
    )
    # No choices here: another plug-in may add a kind after this is read. The layers refuse an unknown one by name.
    attention: str = field(default="momentum", metadata={"help": f"kind of every attention: {', '.join(ATTENTION_KINDS)}"})
    attention_momentum: float = field(default=0.6, metadata={"help": "momentum β of the attention, in [0, 1)"})
    attention_step_size: float = field(default=0.6, metadata={"help": "step size γ of the attention, > 0"})
    attention_momentum_learned: bool = field(default=False, metadata={"help": "learn β and γ per head, from the given values on"})
    attention_feature_map: ChoiceEnum(list(FEATURE_MAPS)) = field(
        default="elu",
        metadata={
            "help": "feature map φ of linear, momentum, symmetric_momentum and transnormer attention; taylor, "
            "1 + s + s²/2 of s = q·k/√D, has 1 + D + D(D+1)/2 features: short sequences go through q·k as softmax does, "
            "long ones and a decoding step's state take D/2 times as many features as elu"
        },
    )
    attention_features: MaybeInt = size("random features of a head", "performer 256, rfa 64")
    attention_redraw_interval: MaybeInt = size(
        "updates after which random numbers are drawn anew, 0 = never", "performer, rfa, reformer 1000"
    )
    attention_projected_length: MaybeInt = size("positions that keys are projected to", "linformer 256")
    attention_hashes: MaybeInt = size("rounds of hashing", "reformer 4")
    attention_bucket: MaybeInt = size("positions in a chunk, about as many as share a hash", "reformer 64")
    attention_landmarks: MaybeInt = size("landmarks", "nystrom 64")
    attention_block: MaybeInt = size("positions in a block of DiagAttention", "transnormer 64")
    connection: ChoiceEnum(list(CONNECTIONS)) = field(default="residual", metadata={"help": "connection around every attention"})
    connection_momentum: float = field(default=0.3, metadata={"help": "momentum β̃ of the connection, in [0, 1)"})
    connection_step_size: float = field(default=0.9, metadata={"help": "step size γ̃ of the connection, > 0"})
    connection_delta: float = field(default=1e-3, metadata={"help": "δ: adaptive momentum stays at or below 1 − δ"})
    connection_ratio: ChoiceEnum(list(RATIO_DENOMINATORS)) = field(
        default="output",
        metadata={"help": "norm that adaptive momentum divides by: previous output (paper) or velocity (its code)"},
    )
    connection_chain: ChoiceEnum(list(CHAINS)) = field(
        default="shared", metadata={"help": "one velocity through all attentions, or one for each kind"}
    )
    share_all_embeddings: bool = field(
        default=False, metadata={"help": "one matrix for source, target and output (needs a joined dictionary)"}
    )
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "one matrix for target and output embeddings"}
    )
    max_source_positions: int = II("task.max_source_positions")
    max_target_positions: int = II("task.max_target_positions")


def layer_options(cfg: Any) -> LayerOptions:
    """The part of a model config that its layers are made of.

    Raises:
        ValueError: a size below 1, or a length of no token.
    """
    for name in COUNTS:
        value = getattr(cfg, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    longest = max(length for length in (cfg.max_source_positions, cfg.max_target_positions, 0) if length is not None)
    return LayerOptions(
        embed_dim=cfg.embed_dim,
        ffn_dim=cfg.ffn_dim,
        num_heads=cfg.heads,
        dropout=cfg.dropout,
        normalize_before=cfg.normalize_before,
        feed_forward=str(cfg.feed_forward),
        activation=str(cfg.feed_forward_activation),
        chain=str(cfg.connection_chain),
        attention=AttentionOptions(
            kind=str(cfg.attention),
            momentum=cfg.attention_momentum,
            step_size=cfg.attention_step_size,
            momentum_learned=cfg.attention_momentum_learned,
            feature_map=str(cfg.attention_feature_map),
            sizes=AttentionSizes(**{size.name: getattr(cfg, f"attention_{size.name}") for size in fields(AttentionSizes)}),
            place=AttentionPlace(max_length=longest + 1),  # --add-bos-token comes on top
        ),
        connection=ConnectionOptions(
            kind=str(cfg.connection),
            momentum=cfg.connection_momentum,
            step_size=cfg.connection_step_size,
            delta=cfg.connection_delta,
            ratio=str(cfg.connection_ratio),
        ),
    )


def plain(value: Any) -> Any:
    """A choice's name in place of fairseq's enum member; other values as they are."""
    return str(value) if isinstance(value, Enum) else value


class OptionsInCheckpoint:
    """A model whose checkpoints hold the options that make its function, most of which show in no tensor's shape.

    Attributes:
        config_class: the dataclass that names the options. cfg: their values.
    """

    config_class: type[ModelConfig]
    cfg: Any

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: fairseq's choices can't be, so they go as their names."""
        if not OmegaConf.is_config(self.cfg):
            return self.__dict__
        values = OmegaConf.to_container(self.cfg, resolve=True, enum_to_str=True)
        return {**self.__dict__, "cfg": OmegaConf.create(values)}

    def get_extra_state(self) -> dict[str, Any]:
        """Goes into checkpoints."""
        names = [f.name for f in fields(self.config_class) if f.name not in NOT_OF_THE_FUNCTION]
        return {name: plain(getattr(self.cfg, name)) for name in names if not name.startswith("_")}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Comes from a checkpoint.

        Raises:
            ValueError: the checkpoint is of a model with other options.
        """
        own = self.get_extra_state()
        differing = [name for name in own if name in state and state[name] != own[name]]
        if differing:
            saved, built = (", ".join(f"{name}={values[name]}" for name in differing) for values in (state, own))
            raise ValueError(f"the architectures differ: the checkpoint has {saved}; the model was built with {built}")

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Checkpoints that hold tensors only, as averaged ones do, are taken on trust.

        Raises:
            RuntimeError: the checkpoint's dictionary is of another size; torch's own says no more than the two shapes.
        """
        state_dict.setdefault("_extra_state", self.get_extra_state())
        for path, module in self.named_modules():
            saved = state_dict.get(f"{path}.weight") if isinstance(module, nn.Embedding) else None
            if saved is not None and saved.shape[0] != module.num_embeddings and saved.shape[1] == module.embedding_dim:
                raise RuntimeError(
                    f"size mismatch for {path}: the checkpoint's has {saved.shape[0]} rows, this model's "
                    f"{module.num_embeddings}; use the data folder that the checkpoint was trained on, or one with the same "
                    "dictionaries (dict.*.txt)"
                )
