"""`lra_classifier`: a stack of layers that classifies one long sequence, or two (Long Range Arena)."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import II
from torch import Tensor, nn

from momentum_fairseq.models.config import ModelConfig, OptionsInCheckpoint, layer_options
from momentum_fairseq.models.presets import register_presets
from momentum_fairseq.modules import Dropout, EncoderLayer, LearnedPositions
from momentum_fairseq.modules.transformer_layer import Velocities, needed_mask
from momentum_fairseq.ops.mean_of_real import mean_of_real

PAD = 0
EMBEDDING_STD = 0.02  # of Xiong et al., for tokens and positions


@dataclass
class LraClassifierConfig(ModelConfig):
    """The common options, those on shared embeddings excepted; the length is the task's."""

    classifier_dim: int = field(default=128, metadata={"help": "width inside the classifier"})
    max_source_positions: Optional[int] = II("task.max_positions")  # noqa: UP045 (fairseq reads this form alone)
    max_target_positions: Optional[int] = II("task.max_positions")  # noqa: UP045


@register_model("lra_classifier", dataclass=LraClassifierConfig)
class LraClassifierModel(OptionsInCheckpoint, BaseFairseqModel):
    """For the task `lra`: embedding + learned positions, dropout, layers, LayerNorm (with the norm before), mean over the real
    positions, Linear, ReLU, Linear.

    Two sequences go through the same layers, each by itself; the classifier reads `[a, b, a·b, a−b]` of their means.

    Args:
        cfg: the options. vocabulary: ids, the padding 0 included. classes, towers: labels, and sequences of an example.

    Raises:
        ValueError: a value out of range, an unknown kind, or shared embeddings: there is one alone.
    """

    config_class = LraClassifierConfig

    def __init__(self, cfg: Any, vocabulary: int, classes: int, towers: int) -> None:
        super().__init__()
        if cfg.share_all_embeddings or cfg.share_decoder_input_output_embed:
            raise ValueError("lra_classifier has one embedding and shares it with nothing; leave --share-… off")
        options = layer_options(cfg)
        self.cfg, self.towers, self.max_length = cfg, towers, cfg.max_source_positions
        self.embedding = nn.Embedding(vocabulary, cfg.embed_dim, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        nn.init.zeros_(self.embedding.weight[PAD])
        self.positions = LearnedPositions(self.max_length, cfg.embed_dim, EMBEDDING_STD)
        self.dropout = Dropout(cfg.dropout, type(self).__name__)
        self.layers = nn.ModuleList(EncoderLayer(options.at_layer(i, cfg.layers)) for i in range(cfg.layers))
        self.layer_norm = nn.LayerNorm(cfg.embed_dim) if cfg.normalize_before else nn.Identity()
        features = cfg.embed_dim * (1 if towers == 1 else 4)
        self.classifier = nn.Sequential(
            nn.Linear(features, cfg.classifier_dim), nn.ReLU(), nn.Linear(cfg.classifier_dim, classes)
        )

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "LraClassifierModel":
        """Build from a config and a task `lra`."""
        cfg.max_source_positions = cfg.max_target_positions = task.max_positions()
        return cls(cfg, task.vocabulary, task.classes, task.towers)

    def forward(self, sequences: list[Tensor]) -> dict[str, Tensor]:
        """int64 `[B,N]`, one for each tower, padded on either side → `logits` `[B,classes]`.

        Raises:
            ValueError: another number of sequences than the model was built for, or one longer than its positions.
        """
        if len(sequences) != self.towers:
            raise ValueError(f"{len(sequences)} sequences given to a model of {self.towers}")
        means = [self.encode(tokens) for tokens in sequences]
        if self.towers == 1:
            return {"logits": self.classifier(means[0])}
        a, b = means
        return {"logits": self.classifier(torch.cat([a, b, a * b, a - b], dim=-1))}

    def encode(self, tokens: Tensor) -> Tensor:
        """int64 `[B,N]` → the mean over each row's real positions, `[B,C]`."""
        padding_mask = tokens.eq(PAD)
        mask, velocities = needed_mask(padding_mask), Velocities()
        positions = self.positions(tokens.shape[1]) if mask is None else self.positions.of_real_tokens(mask)
        x = self.dropout(self.embedding(tokens) + positions)
        for layer in self.layers:
            x = layer(x, mask, velocities)
        return mean_of_real(self.layer_norm(x), mask)

    def max_positions(self) -> int:
        """The longest sequence, in tokens."""
        return self.max_length


# Xiong et al. 2021 (Nyströmformer): sizes; Nguyen et al. 2022, Table 1: momentum, step size, adaptive step size.
PROTOCOL = {
    "embed_dim": 64,
    "ffn_dim": 128,
    "layers": 2,
    "heads": 2,
    "dropout": 0.1,
    "normalize_before": True,
    "feed_forward_activation": "gelu",
}
TABLE_1 = {
    "listops": (0.1, 0.6, 0.4),
    "text": (0.6, 2.0, 0.001),
    "retrieval": (0.6, 1.0, 0.5),
    "image": (0.9, 0.9, 0.001),
    "pathfinder": (0.3, 0.1, 0.8),
}
NAMES = ("attention_momentum", "attention_step_size", "connection_step_size")
register_presets(
    "lra_classifier",
    LraClassifierConfig,
    ("lra",),
    {
        f"lra_classifier_{name}": {**PROTOCOL, **dict(zip(NAMES, numbers, strict=True))} for name, numbers in TABLE_1.items()
    },
)
