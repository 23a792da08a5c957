"""`momentum_transformer`: the autoregressive encoder–decoder (Vaswani et al. 2017) with any attention and connection."""

from dataclasses import dataclass
from typing import Any

from fairseq.models import FairseqEncoderDecoderModel, register_model

from momentum_fairseq.models.causal_decoder import CausalDecoder
from momentum_fairseq.models.config import ModelConfig, OptionsInCheckpoint, layer_options
from momentum_fairseq.models.embeddings import output_projection, source_and_target_embedding
from momentum_fairseq.models.presets import register_presets
from momentum_fairseq.models.transformer_encoder import TransformerEncoder
from momentum_fairseq.modules import SinusoidalPositions


@dataclass
class MomentumTransformerConfig(ModelConfig):
    """The common options; the feed-forward is residual unless asked for otherwise."""


@register_model("momentum_transformer", dataclass=MomentumTransformerConfig)
class MomentumTransformerModel(OptionsInCheckpoint, FairseqEncoderDecoderModel):
    """For fairseq's own `translation` task, cross-entropy and beam search.

    Self-attention of the decoder is causal. Decoding step by step keeps for each layer a state of constant size (linear,
    momentum) or all keys and values (softmax), and what it reads of the source, computed once.

    Raises:
        ValueError: a value out of range, an unknown kind or one without a causal form, or embeddings shared over different
            dictionaries.
    """

    config_class = MomentumTransformerConfig

    def __init__(self, cfg: Any, source_dictionary: Any, target_dictionary: Any) -> None:
        options = layer_options(cfg)
        positions = SinusoidalPositions(max(cfg.max_source_positions, cfg.max_target_positions) + 1, cfg.embed_dim)
        source, target = source_and_target_embedding(cfg, source_dictionary, target_dictionary)
        encoder = TransformerEncoder(
            source_dictionary, source, cfg.layers, options, positions, max_source_positions=cfg.max_source_positions
        )
        decoder = CausalDecoder(
            target_dictionary,
            target,
            output_projection(cfg, target),
            cfg.layers,
            options,
            positions,
            max_target_positions=cfg.max_target_positions,
        )
        super().__init__(encoder, decoder)
        self.cfg = cfg

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "MomentumTransformerModel":
        """Build from a config and a task with `source_dictionary` and `target_dictionary`."""
        return cls(cfg, task.source_dictionary, task.target_dictionary)


register_presets(
    "momentum_transformer",
    MomentumTransformerConfig,
    ("translation",),
    {
        "momentum_transformer_tiny": {"embed_dim": 64, "ffn_dim": 128, "layers": 2, "heads": 2},
        "momentum_transformer_multi30k": {"embed_dim": 256, "ffn_dim": 512, "layers": 3, "heads": 4},
        # Nguyen et al. 2022, section 4.4
        "momentum_transformer_iwslt16_en_de": {"embed_dim": 278, "ffn_dim": 507, "layers": 5, "heads": 2},
        # Vaswani et al. 2017, table 3
        "momentum_transformer_base": {"embed_dim": 512, "ffn_dim": 2048, "layers": 6, "heads": 8},
    },
)
