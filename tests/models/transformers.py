"""A tiny autoregressive model, and its logits."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from torch import Tensor

from momentum_fairseq.models.momentum_transformer import MomentumTransformerConfig, MomentumTransformerModel
from momentum_fairseq.modules import ATTENTION_KINDS
from momentum_fairseq.modules.causal_attention import has_causal_form
from tests.models.sentences import EOS, PAD, words
from tests.pairs import pairs

CAUSAL_KINDS = sorted(name for name, kind in ATTENTION_KINDS.items() if has_causal_form(kind))
ALL = pairs(CAUSAL_KINDS)
Build = Callable[..., MomentumTransformerModel]


def tiny_transformer(dictionary: Dictionary, seed: int = 1, **values: Any) -> MomentumTransformerModel:
    """A tiny model in evaluation mode, seeded; keyword arguments are fields of its config."""
    torch.manual_seed(seed)
    tiny = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "dropout": 0.0}
    limits = {"max_source_positions": 256, "max_target_positions": 256}
    config = MomentumTransformerConfig(**{**tiny, **limits, **values})
    return MomentumTransformerModel(config, dictionary, dictionary).eval()


def targets(*lengths: int) -> list[Tensor]:
    """Sentences as the decoder reads them, EOS before; `lengths` count the words."""
    return [F.pad(sentence, (1, 0), value=EOS) for sentence in words(*lengths, seed=6)]


def logits(model: MomentumTransformerModel, source: Tensor, target: Tensor) -> Tensor:
    return model(source, source.ne(PAD).sum(1), target)[0]


def by_steps(model: MomentumTransformerModel, source: Tensor, target: Tensor, ends: list[int]) -> Tensor:
    """The logits of the target, read up to each of `ends` at a time."""
    with torch.no_grad():
        encoded, state = model.encoder(source), {}
        return torch.cat([model.decoder(target[:, :end], encoded, state)[0] for end in ends], dim=1)
