"""`momentum_lm`: the language model (a decoder alone) with any causal attention and connection."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.models import FairseqLanguageModel, register_model
from omegaconf import II
from torch import Tensor, nn

from momentum_fairseq.models.causal_decoder import CausalDecoder
from momentum_fairseq.models.config import ModelConfig, OptionsInCheckpoint, layer_options
from momentum_fairseq.models.embeddings import embedding, output_projection
from momentum_fairseq.models.presets import register_presets
from momentum_fairseq.modules import SinusoidalPositions
from momentum_fairseq.ops.logistic_mixture import spread_mixture


@dataclass
class MomentumLmConfig(ModelConfig):
    """The common options; the lengths are the task's, under the names of fairseq's `language_modeling`."""

    max_source_positions: Optional[int] = II("task.max_target_positions")  # noqa: UP045 (fairseq reads this form alone)
    max_target_positions: Optional[int] = II("task.max_target_positions")  # noqa: UP045
    tokens_per_sample: int = II("task.tokens_per_sample")
    mixture_components: int = field(
        default=0, metadata={"help": "predict pixel values by a mixture of so many logistics; 0: words by a logit each"}
    )


@register_model("momentum_lm", dataclass=MomentumLmConfig)
class MomentumLmModel(OptionsInCheckpoint, FairseqLanguageModel):
    """For fairseq's own `language_modeling` task, cross-entropy, `fairseq-eval-lm` and beam search, for the `copy` task, and with
    --mixture-components for the `image_generation` task.

    Decoding step by step keeps for each layer a state of constant size (linear, momentum) or all keys and values (softmax).

    Raises:
        ValueError: a value out of range, an unknown kind or one without a causal form, or an output dictionary of its own.
    """

    config_class = ModelConfig  # tokens_per_sample is no part of the function

    def __init__(self, cfg: Any, source_dictionary: Any, target_dictionary: Any) -> None:
        if len(target_dictionary) != len(source_dictionary):
            raise ValueError(
                f"momentum_lm predicts the words that it reads, {len(source_dictionary)} of them, not "
                f"{len(target_dictionary)}; leave --output-dictionary-size off"
            )
        options = layer_options(cfg)
        longest = cfg.tokens_per_sample if cfg.max_target_positions is None else cfg.max_target_positions
        words = embedding(len(source_dictionary), cfg.embed_dim, source_dictionary.pad())
        decoder = CausalDecoder(
            target_dictionary,
            words,
            mixture_projection(cfg) if cfg.mixture_components else output_projection(cfg, words),
            cfg.layers,
            options,
            SinusoidalPositions(longest + 1, cfg.embed_dim),  # --add-bos-token comes on top
            max_target_positions=longest,
            cross_attention=False,
        )
        super().__init__(decoder)
        self.cfg = cfg

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "MomentumLmModel":
        """Build from a config and a task with `source_dictionary` and `target_dictionary`."""
        return cls(cfg, task.source_dictionary, task.target_dictionary)

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor | None = None, incremental_state: dict[str, Any] | None = None
    ) -> tuple[Tensor, None]:
        """Logits of the next word at each position.

        Args:
            src_tokens: int64 `[B,N]`, padded on either side.
            src_lengths: what fairseq passes too; the padding tells the lengths.
            incremental_state: see `CausalDecoder.forward`.

        Returns:
            `[B,N,V]`, and None in the place of fairseq's extras.
        """
        return self.decoder(src_tokens, incremental_state=incremental_state)

    def get_normalized_probs(
        self, net_output: tuple[Tensor, Any], log_probs: bool, sample: dict[str, Any] | None = None
    ) -> Tensor:
        """Probabilities of the words, or their logarithms, `[B,N,V]`.

        Raises:
            ValueError: a mixture, which is of pixel values and has no words.
        """
        if self.cfg.mixture_components:
            raise ValueError("a model with --mixture-components predicts no words: train it by --criterion logistic_mixture_loss")
        return super().get_normalized_probs(net_output, log_probs, sample)


def mixture_projection(cfg: Any) -> nn.Linear:
    """`[..., C]` → the parameters `[..., 3K]` of a mixture (see `ops/logistic_mixture.py`), at first the same for all pixels.

    Raises:
        ValueError: fewer components than one; embeddings to be shared with an output that has none.
    """
    if cfg.mixture_components < 0:
        raise ValueError(f"--mixture-components must not be negative, got {cfg.mixture_components}")
    if cfg.share_all_embeddings or cfg.share_decoder_input_output_embed:
        raise ValueError("--mixture-components predicts no words, whose embeddings could be shared with the input's")
    projection = nn.Linear(cfg.embed_dim, 3 * cfg.mixture_components)
    nn.init.normal_(projection.weight, std=0.1 * cfg.embed_dim**-0.5)
    projection.bias.data.copy_(spread_mixture(cfg.mixture_components))
    return projection


IMAGES = {"embed_dim": 256, "ffn_dim": 1024, "heads": 8, "dropout": 0.1, "mixture_components": 10}

register_presets(
    "momentum_lm",
    MomentumLmConfig,
    ("language_modeling", "copy", "image_generation"),
    {
        "momentum_lm_tiny": {"embed_dim": 64, "ffn_dim": 128, "layers": 2, "heads": 2},
        # Nguyen et al. 2022, section 4.1 and Table 1. No sequence is seen twice, so there is nothing that dropout could help.
        "momentum_lm_copy": {
            "embed_dim": 256,
            "ffn_dim": 1024,
            "layers": 4,
            "heads": 8,
            "dropout": 0.0,
            "attention_momentum": 0.1,
            "attention_step_size": 0.6,
            "connection_momentum": 0.99,
            "connection_step_size": 0.99,
        },
        # Section 4.2 and Table 1; 8 heads of 32 and a feed-forward of four times the width.
        "momentum_lm_mnist": {
            **IMAGES,
            "layers": 8,
            "attention_momentum": 0.6,
            "attention_step_size": 0.9,
            "connection_momentum": 0.1,
            "connection_step_size": 0.99,
        },
        "momentum_lm_cifar10": {
            **IMAGES,
            "layers": 16,
            "attention_momentum": 0.1,
            "attention_step_size": 0.9,
            "connection_momentum": 0.1,
            "connection_step_size": 0.9,
        },
    },
)
