"""`momentum_nat`: the iterative-refinement translation model of Lee et al., EMNLP 2018, with any attention and connection."""

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import II
from torch import Tensor, nn

from momentum_fairseq.models.nat_decoder import NatDecoder, uniform_copy
from momentum_fairseq.models.nat_encoder import EncoderOutput, NatEncoder, mean_momentum
from momentum_fairseq.models.presets import register_presets
from momentum_fairseq.modules import (
    ATTENTION_KINDS,
    CONNECTIONS,
    FEED_FORWARDS,
    AttentionOptions,
    ConnectionOptions,
    LayerOptions,
    LengthPredictor,
    SinusoidalPositions,
)
from momentum_fairseq.modules.connections import RATIO_DENOMINATORS
from momentum_fairseq.modules.transformer_layer import CHAINS, LayerMemory
from momentum_fairseq.ops import FEATURE_MAPS

PROJECTION_BLOCK = 1 << 20  # logits in memory at once while decoding: 4 MB in float32, about a core's cache
# Options that a model may change between one run and the next.
NOT_OF_THE_FUNCTION = ("dropout", "max_source_positions", "max_target_positions")


@dataclass
class MomentumNatConfig(FairseqDataclass):
    embed_dim: int = field(default=256, metadata={"help": "width C of embeddings and layers (d_model)"})
    ffn_dim: int = field(default=1024, metadata={"help": "width inside the feed-forward (d_hidden)"})
    layers: int = field(default=5, metadata={"help": "layers in the encoder and in each of the two decoders"})
    heads: int = field(default=4, metadata={"help": "attention heads"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on embeddings and sub-layer outputs"})
    normalize_before: bool = field(default=False, metadata={"help": "LayerNorm before each sub-layer, not after"})
    feed_forward: ChoiceEnum(list(FEED_FORWARDS)) = field(default="highway", metadata={"help": "feed-forward kind"})
    attention: ChoiceEnum(list(ATTENTION_KINDS)) = field(
        default="momentum", metadata={"help": "kind of every attention: self, positional, cross"}
    )
    attention_momentum: float = field(default=0.6, metadata={"help": "momentum β of the attention, in [0, 1)"})
    attention_step_size: float = field(default=0.6, metadata={"help": "step size γ of the attention, > 0"})
    attention_momentum_learned: bool = field(
        default=False, metadata={"help": "learn β and γ per head, from the given values on"}
    )
    attention_feature_map: ChoiceEnum(list(FEATURE_MAPS)) = field(
        default="elu", metadata={"help": "feature map φ of linear and momentum attention"}
    )
    connection: ChoiceEnum(list(CONNECTIONS)) = field(
        default="residual", metadata={"help": "connection around every attention"}
    )
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
    max_length_offset: int = field(default=20, metadata={"help": "largest predicted |target − source| length"})
    share_all_embeddings: bool = field(
        default=False, metadata={"help": "one matrix for source, target and output (needs a joined dictionary)"}
    )
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "one matrix for target and output embeddings"}
    )
    max_source_positions: int = II("task.max_source_positions")
    max_target_positions: int = II("task.max_target_positions")


class RefinementState(NamedTuple):
    """Sentences in the middle of their refinement.

    tokens: int64 `[B,N]`, padding on the right; hidden: the last decoder's output `[B,N,C]`; padding_mask: bool `[B,N]`;
    memory: of the second decoder, None until it is needed.
    """

    tokens: Tensor
    hidden: Tensor
    padding_mask: Tensor
    memory: list[LayerMemory]

    def select(self, sentences: Tensor) -> "RefinementState":
        """The same for some of the sentences: int64 or bool `[B]` indices into the batch."""
        return RefinementState(
            self.tokens[sentences],
            self.hidden[sentences],
            self.padding_mask[sentences],
            [layer.select(sentences) for layer in self.memory],
        )


@register_model("momentum_nat", dataclass=MomentumNatConfig)
class MomentumNatModel(BaseFairseqModel):
    """Two decoders: the first translates in one pass, the second refines its own output (Lee et al. 2018).

    log p(Y⁰|X) comes from decoder 1, whose input is the uniformly copied source embedding; log p(Yˡ|Yˡ⁻¹, X) from decoder 2,
    whose input is the embedding of the previous argmax plus the previous decoder's last hidden state.

    Raises:
        ValueError: a value out of range, an unknown kind, or embeddings shared over different dictionaries.
    """

    def __init__(self, cfg: Any, source_dictionary: Any, target_dictionary: Any) -> None:
        super().__init__()
        self.cfg = cfg
        self.padding_idx = target_dictionary.pad()
        self.first_word = 1 + max(target_dictionary.bos(), target_dictionary.pad(), target_dictionary.eos())
        if {target_dictionary.bos(), target_dictionary.pad(), target_dictionary.eos()} != set(range(self.first_word)):
            raise ValueError("the target dictionary must begin with BOS, padding and EOS, as fairseq's do")
        options = layer_options(cfg)
        positions = SinusoidalPositions(max(cfg.max_source_positions, cfg.max_target_positions) + 1, cfg.embed_dim)

        self.target_embedding = embedding(len(target_dictionary), cfg.embed_dim, self.padding_idx)
        if cfg.share_all_embeddings:
            if source_dictionary != target_dictionary:
                raise ValueError("--share-all-embeddings needs a joined dictionary (prepare with JOINED_DICTIONARY=1)")
            source_embedding = self.target_embedding
        else:
            source_embedding = embedding(len(source_dictionary), cfg.embed_dim, source_dictionary.pad())
        self.encoder = NatEncoder(source_embedding, cfg.layers, options, positions, eos=source_dictionary.eos())
        self.decoder1 = NatDecoder(cfg.layers, options, positions)
        self.decoder2 = NatDecoder(cfg.layers, options, positions)
        self.length_predictor = LengthPredictor(cfg.embed_dim, cfg.layers, cfg.max_length_offset)
        self.output_projection = nn.Linear(cfg.embed_dim, len(target_dictionary), bias=False)
        nn.init.normal_(self.output_projection.weight, std=cfg.embed_dim**-0.5)
        if cfg.share_all_embeddings or cfg.share_decoder_input_output_embed:
            self.output_projection.weight = self.target_embedding.weight

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "MomentumNatModel":
        """Build from a config and a task with `source_dictionary` and `target_dictionary`."""
        return cls(cfg, task.source_dictionary, task.target_dictionary)

    def get_extra_state(self) -> dict[str, Any]:
        """Goes into checkpoints: the options that make the function, most of which show in no tensor's shape."""
        names = [f.name for f in fields(MomentumNatConfig) if f.name not in NOT_OF_THE_FUNCTION]
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
        """Checkpoints that hold tensors only, as averaged ones do, are taken on trust."""
        state_dict.setdefault("_extra_state", self.get_extra_state())

    def max_positions(self) -> tuple[int, int]:
        """The longest source and target, in tokens."""
        return self.cfg.max_source_positions, self.cfg.max_target_positions

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, tgt_tokens: Tensor, step_inputs: list[Tensor | None]
    ) -> dict[str, Any]:
        """All the predictions that the training loss sums.

        Args:
            src_tokens: int64 `[B,S]` with EOS. src_lengths: int64 `[B]`, not used: padding tells the lengths.
            tgt_tokens: int64 `[B,N]` without EOS, padding on the right.
            step_inputs: one entry for each refinement step: a corrupted target `[B,N]` (denoising), or None for the model's
                own previous argmax (latent variable).

        Returns:
            `steps`: for the initial prediction and each refinement, logits `[R,V]` at the R real target tokens;
            `predictions`: their best words, int64 `[R]` each; `targets`: int64 `[R]`;
            `length_logits` `[B,2·offset+1]`, `length_targets` int64 `[B]`;
            `momentum`: name → mean adaptive β̃, a scalar, for the layers of an adaptive model.
        """
        source = self.encoder(src_tokens)
        padding_mask = tgt_tokens.eq(self.padding_idx)
        real = (~padding_mask).flatten().nonzero().squeeze(1)
        lengths = (~padding_mask).sum(1)
        width = tgt_tokens.shape[1]
        decoded = self.decoder1(
            uniform_copy(source, lengths, width), padding_mask, self.decoder1.memory(source, width)
        )
        momenta = {"encoder": source.momenta, "decoder1": decoded.momenta}
        logits = self.output_projection(decoded.hidden.flatten(0, 1)[real])
        steps, predictions = [logits], [self._words(logits)]
        memory = self.decoder2.memory(source, width) if step_inputs else []
        for step_input in step_inputs:
            if step_input is None:
                step_input = tgt_tokens.flatten().index_copy(0, real, predictions[-1]).view_as(tgt_tokens)
            decoded = self.decoder2(self._embed(step_input) + decoded.hidden, padding_mask, memory)
            logits = self.output_projection(decoded.hidden.flatten(0, 1)[real])
            steps.append(logits)
            predictions.append(self._words(logits))
            momenta["decoder2"] = decoded.momenta
        return {
            "steps": steps,
            "predictions": predictions,
            "targets": tgt_tokens.flatten()[real],
            "length_logits": self.length_predictor(source.layers, source.padding_mask),
            "length_targets": self.length_predictor.target(source.lengths, lengths),
            "momentum": {
                f"{part}_layer{i}": mean_momentum(layer, source.padding_mask if part == "encoder" else padding_mask)
                for part, layers in momenta.items()
                for i, layer in enumerate(layers)
                if layer
            },
        }

    def encode(self, src_tokens: Tensor) -> EncoderOutput:
        """int64 `[B,S]` → `EncoderOutput`."""
        return self.encoder(src_tokens)

    def predict_lengths(self, source: EncoderOutput, beam: int = 1) -> Tensor:
        """The `beam` most probable target lengths, best first: int64 `[B, beam]`."""
        logits = self.length_predictor(source.layers, source.padding_mask)
        return self.length_predictor.lengths(logits, source.lengths, beam, max_length=self.cfg.max_target_positions)

    def translate(self, source: EncoderOutput, lengths: Tensor) -> RefinementState:
        """Decoder 1: the initial translation of B sentences to `lengths` words, int64 `[B]`."""
        width = int(lengths.max())
        padding_mask = torch.arange(width, device=lengths.device) >= lengths.unsqueeze(1)
        copied = uniform_copy(source, lengths, width)
        hidden = self.decoder1(copied, padding_mask, self.decoder1.memory(source, width)).hidden
        return RefinementState(
            self.best_words(hidden, padding_mask), hidden, padding_mask, self.decoder2.memory(source, width)
        )

    def refine(self, state: RefinementState) -> RefinementState:
        """Decoder 2: one refinement step."""
        x = self._embed(state.tokens) + state.hidden
        hidden = self.decoder2(x, state.padding_mask, state.memory).hidden
        return state._replace(tokens=self.best_words(hidden, state.padding_mask), hidden=hidden)

    def best_words(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """The most probable ordinary word at each real position: `[B,N,C]` → int64 `[B,N]`.

        BOS, EOS and padding are never produced. Real positions only, a block at a time: `[B,N,V]` is never in memory. Of equal
        logits the first word wins.
        """
        weight = self.output_projection.weight[self.first_word :]
        real = ~padding_mask
        rows = hidden[real]  # [R,C]
        block = max(1, PROJECTION_BLOCK // len(weight))
        words = [F.linear(rows[i : i + block], weight).argmax(-1) for i in range(0, len(rows), block)]
        tokens = torch.full_like(padding_mask, self.padding_idx, dtype=torch.long)
        tokens[real] = torch.cat(words) + self.first_word
        return tokens

    def word_scores(self, state: RefinementState) -> Tensor:
        """log p of each token of `state`, float32 `[B,N]`, 0 at padding."""
        real = ~state.padding_mask
        rows, words = state.hidden[real], state.tokens[real]
        block = max(1, PROJECTION_BLOCK // self.output_projection.out_features)
        scores = []
        for i in range(0, len(rows), block):
            logits = self.output_projection(rows[i : i + block]).float()
            chosen = logits.gather(1, words[i : i + block].unsqueeze(1)).squeeze(1)
            scores.append(chosen - logits.logsumexp(-1))
        return torch.zeros(real.shape, device=real.device).masked_scatter(real, torch.cat(scores))

    def _words(self, logits: Tensor) -> Tensor:
        return logits.detach()[:, self.first_word :].argmax(-1) + self.first_word

    def _embed(self, tokens: Tensor) -> Tensor:
        return math.sqrt(self.cfg.embed_dim) * self.target_embedding(tokens)


def layer_options(cfg: Any) -> LayerOptions:
    """The part of a model config that its layers are made of."""
    return LayerOptions(
        embed_dim=cfg.embed_dim,
        ffn_dim=cfg.ffn_dim,
        num_heads=cfg.heads,
        dropout=cfg.dropout,
        normalize_before=cfg.normalize_before,
        feed_forward=str(cfg.feed_forward),
        chain=str(cfg.connection_chain),
        attention=AttentionOptions(
            kind=str(cfg.attention),
            momentum=cfg.attention_momentum,
            step_size=cfg.attention_step_size,
            momentum_learned=cfg.attention_momentum_learned,
            feature_map=str(cfg.attention_feature_map),
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


def embedding(words: int, dim: int, padding_idx: int) -> nn.Embedding:
    """A word embedding from N(0, 1/dim), zero at padding."""
    table = nn.Embedding(words, dim, padding_idx=padding_idx)
    nn.init.normal_(table.weight, std=dim**-0.5)
    nn.init.zeros_(table.weight[padding_idx])
    return table


register_presets(
    "momentum_nat",
    MomentumNatConfig,
    {
        "momentum_nat_tiny": {"embed_dim": 64, "ffn_dim": 128, "layers": 2, "heads": 2},
        "momentum_nat_multi30k": {"embed_dim": 128, "ffn_dim": 256, "layers": 3, "heads": 4},
        # Nguyen et al. 2022, section 4.4
        "momentum_nat_iwslt16_en_de": {"embed_dim": 278, "ffn_dim": 507, "layers": 5, "heads": 2},
    },
)
