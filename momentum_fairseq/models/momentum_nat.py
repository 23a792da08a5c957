"""`momentum_nat`: the iterative-refinement translation model of Lee et al., EMNLP 2018, with any attention and connection."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor

from momentum_fairseq.models.config import ModelConfig, OptionsInCheckpoint, layer_options
from momentum_fairseq.models.embeddings import output_projection, source_and_target_embedding
from momentum_fairseq.models.nat_decoder import DecoderMemory, NatDecoder, uniform_copy
from momentum_fairseq.models.nat_encoder import EncoderOutput, NatEncoder, mean_momentum
from momentum_fairseq.models.presets import register_presets
from momentum_fairseq.modules import FEED_FORWARDS, LengthPredictor, SinusoidalPositions, WordProjection
from momentum_fairseq.modules.packed_linear import is_plain
from momentum_fairseq.ops.blocked_cross_entropy import blocked_cross_entropy
from momentum_fairseq.ops.row_argmax import row_argmax


@dataclass
class MomentumNatConfig(ModelConfig):
    feed_forward: ChoiceEnum(list(FEED_FORWARDS)) = field(default="highway", metadata={"help": "feed-forward kind"})
    max_length_offset: int = field(default=20, metadata={"help": "largest predicted |target − source| length"})


class RefinementState(NamedTuple):
    """Sentences in the middle of their refinement.

    tokens: int64 `[B,N]`, padding on the right; hidden: the last decoder's output `[B,N,C]`; padding_mask: bool `[B,N]`;
    memory: what the second decoder keeps of the source.
    """

    tokens: Tensor
    hidden: Tensor
    padding_mask: Tensor
    memory: DecoderMemory

    def select(self, sentences: Tensor) -> "RefinementState":
        """The same for some of the sentences: int64 `[B']`."""
        return RefinementState(
            self.tokens[sentences],
            self.hidden[sentences],
            self.padding_mask[sentences],
            self.memory.reorder(sentences),
        )


@register_model("momentum_nat", dataclass=MomentumNatConfig)
class MomentumNatModel(OptionsInCheckpoint, BaseFairseqModel):
    """Two decoders: the first translates in one pass, the second refines its own output (Lee et al. 2018).

    log p(Y⁰|X) comes from decoder 1, whose input is the uniformly copied source embedding; log p(Yˡ|Yˡ⁻¹, X) from decoder 2,
    whose input is the embedding of the previous argmax plus the previous decoder's last hidden state.

    Raises:
        ValueError: a value out of range, an unknown kind, or embeddings shared over different dictionaries.
    """

    config_class = MomentumNatConfig

    def __init__(self, cfg: Any, source_dictionary: Any, target_dictionary: Any) -> None:
        super().__init__()
        self.cfg = cfg
        self.padding_idx = target_dictionary.pad()
        self.first_word = 1 + max(target_dictionary.bos(), target_dictionary.pad(), target_dictionary.eos())
        if {target_dictionary.bos(), target_dictionary.pad(), target_dictionary.eos()} != set(range(self.first_word)):
            raise ValueError("the target dictionary must begin with BOS, padding and EOS, as fairseq's do")
        options = layer_options(cfg)
        positions = SinusoidalPositions(max(cfg.max_source_positions, cfg.max_target_positions), cfg.embed_dim)

        source_embedding, self.target_embedding = source_and_target_embedding(cfg, source_dictionary, target_dictionary)
        self.encoder = NatEncoder(source_embedding, cfg.layers, options, positions, eos=source_dictionary.eos())
        self.decoder1 = NatDecoder(cfg.layers, options, positions)
        self.decoder2 = NatDecoder(cfg.layers, options, positions)
        self.length_predictor = LengthPredictor(cfg.embed_dim, cfg.layers, cfg.max_length_offset)
        self.output_projection = output_projection(cfg, self.target_embedding)
        self.words = WordProjection(self, "output_projection", self.first_word)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "MomentumNatModel":
        """Build from a config and the task `translation_nat`; ValueError for one that can't draw its refinement steps."""
        if not hasattr(task, "draw_step_inputs"):
            raise ValueError(f"momentum_nat needs --task translation_nat, not {type(task).__name__}")
        return cls(cfg, task.source_dictionary, task.target_dictionary)

    def max_positions(self) -> tuple[int, int]:
        """The longest source and target, in tokens."""
        return self.cfg.max_source_positions, self.cfg.max_target_positions

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        tgt_tokens: Tensor | None = None,
        step_inputs: list[Tensor | None] | None = None,
        most_logits: int | None = None,
    ) -> dict[str, Any]:
        """All the predictions that the training loss sums.

        Args:
            src_tokens: int64 `[B,S]` with EOS. src_lengths: int64 `[B]`, not used: padding tells the lengths.
            tgt_tokens: int64 `[B,N]` without EOS, padding on the right.
            step_inputs: one entry for each refinement step: a corrupted target `[B,N]` (denoising), or None for the model's
                own previous argmax (latent variable).
            most_logits: where the steps have more logits than this, they are never in memory together; None = no limit.

        Returns:
            `steps`: for the initial prediction and each refinement, logits `[R,V]` at the R real target tokens; or, above
            `most_logits`, `step_losses` in their place, the cross-entropy of each summed over the tokens;
            `predictions`: their best words, int64 `[R]` each; `targets`: int64 `[R]`;
            `length_logits` `[B,2·offset+1]`, `length_targets` int64 `[B]`;
            `momentum`: name → mean adaptive β̃, a scalar, for the layers of an adaptive model.

        Raises:
            ValueError: no target or no steps, as from the criterion of another model.
        """
        if tgt_tokens is None or step_inputs is None:
            raise ValueError("momentum_nat needs --criterion nat_refinement_loss, which gives it the target and its steps")
        source = self.encoder(src_tokens)
        padding_mask = tgt_tokens.eq(self.padding_idx)
        real = (~padding_mask).flatten().nonzero().squeeze(1)
        lengths = (~padding_mask).sum(1)
        copied = uniform_copy(source, lengths, tgt_tokens.shape[1])
        decoded = self.decoder1(copied, self.decoder1.memory(source, padding_mask, many_reads=False))
        momenta = {"encoder": source.momenta, "decoder1": decoded.momenta}
        targets, projection = tgt_tokens.flatten()[real], self.output_projection
        in_blocks = most_logits is not None and is_plain(projection) and projection.bias is None  # blocks take the weight alone
        in_blocks = in_blocks and (1 + len(step_inputs)) * len(real) * len(projection.weight) > most_logits

        def predict(hidden: Tensor) -> tuple[Tensor, Tensor]:
            """Logits `[R,V]`, or their loss, and words `[R]`."""
            rows = hidden.flatten(0, 1)[real]
            if in_blocks:
                return blocked_cross_entropy(rows, projection.weight, targets, first_word=self.first_word)
            logits = projection(rows)
            return logits, self.first_word + row_argmax(logits.detach()[:, self.first_word :])

        predicted = [predict(decoded.hidden)]
        memory = self.decoder2.memory(source, padding_mask) if step_inputs else None
        for step_input in step_inputs:
            if step_input is None:
                step_input = tgt_tokens.flatten().index_copy(0, real, predicted[-1][1]).view_as(tgt_tokens)
            decoded = self.decoder2(self._embed(step_input) + decoded.hidden, memory)
            predicted.append(predict(decoded.hidden))
            momenta["decoder2"] = decoded.momenta
        steps, predictions = map(list, zip(*predicted, strict=True))
        return {
            "step_losses" if in_blocks else "steps": steps,
            "predictions": predictions,
            "targets": targets,
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
        padding_mask = mask_beyond(lengths, width)
        copied = uniform_copy(source, lengths, width)
        hidden = self.decoder1(copied, self.decoder1.memory(source, padding_mask, many_reads=False)).hidden
        return RefinementState(
            self.best_words(hidden, padding_mask), hidden, padding_mask, self.decoder2.memory(source, padding_mask)
        )

    def resume(self, source: EncoderOutput, lengths: Tensor, tokens: Tensor, hidden: Tensor) -> RefinementState:
        """Sentences in the middle of their refinement, in another batch: tokens `[B,N]` and hidden `[B,N,C]` of N >= lengths."""
        padding_mask = mask_beyond(lengths, tokens.shape[1])
        tokens = tokens.masked_fill(padding_mask, self.padding_idx)
        return RefinementState(tokens, hidden, padding_mask, self.decoder2.memory(source, padding_mask))

    def refine(self, state: RefinementState) -> RefinementState:
        """Decoder 2: one refinement step."""
        x = self._embed(state.tokens) + state.hidden
        hidden = self.decoder2(x, state.memory).hidden
        return state._replace(tokens=self.best_words(hidden, state.padding_mask), hidden=hidden)

    def best_words(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """The most probable ordinary word at each real position: `[B,N,C]` → int64 `[B,N]`.

        BOS, EOS and padding are never produced. Real positions only, a block at a time: `[B,N,V]` is never in memory. Of equal
        logits the first word wins.
        """
        real = ~padding_mask
        tokens = torch.full_like(padding_mask, self.padding_idx, dtype=torch.long)
        tokens[real] = self.words.best(hidden[real])
        return tokens

    def word_scores(self, state: RefinementState) -> Tensor:
        """log p of each token of `state`, float32 `[B,N]`, 0 at padding."""
        real = ~state.padding_mask
        scores = self.words.scores(state.hidden[real], state.tokens[real])
        return torch.zeros(real.shape, device=real.device).masked_scatter(real, scores)

    def _embed(self, tokens: Tensor) -> Tensor:
        return math.sqrt(self.cfg.embed_dim) * self.target_embedding(tokens)


def mask_beyond(lengths: Tensor, width: int) -> Tensor:
    """int64 `[B]` → bool `[B,width]`, True past each length."""
    return torch.arange(width, device=lengths.device) >= lengths.unsqueeze(1)


register_presets(
    "momentum_nat",
    MomentumNatConfig,
    ("translation_nat",),
    {
        "momentum_nat_tiny": {"embed_dim": 64, "ffn_dim": 128, "layers": 2, "heads": 2},
        "momentum_nat_multi30k": {"embed_dim": 128, "ffn_dim": 256, "layers": 3, "heads": 4},
        # Nguyen et al. 2022, section 4.4
        "momentum_nat_iwslt16_en_de": {"embed_dim": 278, "ffn_dim": 507, "layers": 5, "heads": 2},
    },
)
