"""Sentences to decode, a model that is restless about them, and one that says what it is told."""

import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq.models.momentum_nat import MomentumNatModel, RefinementState
from momentum_fairseq.models.nat_decoder import DecoderMemory
from momentum_fairseq.models.nat_encoder import EncoderOutput
from momentum_fairseq.refinement_generator import RefinementGenerator

PAD, EOS = 1, 2


def sentences(count: int = 64, longest: int = 11) -> list[Tensor]:
    random = torch.Generator().manual_seed(11)
    lengths = torch.randint(1, longest, (count,), generator=random).tolist()
    return [F.pad(torch.randint(4, 44, (n,), generator=random), (0, 1), value=EOS) for n in lengths]


def sample(rows: list[Tensor]) -> dict:
    """Left-padded, as fairseq does."""
    width = max(map(len, rows))
    return {"net_input": {"src_tokens": torch.stack([F.pad(r, (width - len(r), 0), value=PAD) for r in rows])}}


def decode(generator: RefinementGenerator, model, rows: list[Tensor], size: int = 64) -> list[list[dict]]:
    batches = [sample(rows[i : i + size]) for i in range(0, len(rows), size)]
    return [hypotheses for batch in batches for hypotheses in generator.generate([model], batch)]


def tokens(results: list[list[dict]]) -> list[list[list[int]]]:
    return [[hypothesis["tokens"].tolist() for hypothesis in hypotheses] for hypotheses in results]


def restless(build_model, **options) -> MomentumNatModel:
    """A model whose sentences differ in length and in when they stop: its length predictor and feedback are strong."""
    model = build_model(**{"embed_dim": 24, "heads": 2, **options})
    torch.manual_seed(5)
    with torch.no_grad():
        model.length_predictor.classifier.weight.normal_(std=1.5)
        model.length_predictor.classifier.bias.copy_(-0.5 * (torch.arange(41) - 20).abs())
        model.target_embedding.weight.mul_(3)
    return model


class ScriptedModel(torch.nn.Module):
    """Says, for each sentence, what it is told in each pass (and the last of it from then on)."""

    def __init__(self, scripts: list[list[list[int]]]) -> None:
        super().__init__()
        self.scripts, self.passes = scripts, []

    def encode(self, src_tokens: Tensor) -> EncoderOutput:
        rows = torch.arange(len(src_tokens))
        return EncoderOutput([], rows.view(-1, 1, 1).float(), src_tokens.eq(PAD), rows, [])

    def predict_lengths(self, source: EncoderOutput, beam: int) -> Tensor:
        return torch.tensor([[len(script[0])] for script in self.scripts])

    def translate(self, source: EncoderOutput, lengths: Tensor) -> RefinementState:
        width = int(lengths.max())
        padding = torch.arange(width) >= lengths.unsqueeze(1)
        return self.say(torch.arange(len(lengths)), 0, padding)

    def refine(self, state: RefinementState) -> RefinementState:
        return self.say(state.hidden[:, 0, 0].long(), int(state.hidden[0, 0, 1]) + 1, state.padding_mask)

    def say(self, rows: Tensor, step: int, padding: Tensor) -> RefinementState:
        self.passes.append(rows.tolist())
        said = torch.full(padding.shape, PAD)
        for i, row in enumerate(rows.tolist()):
            words = self.scripts[row][min(step, len(self.scripts[row]) - 1)]
            said[i, : len(words)] = torch.tensor(words)
        hidden = torch.zeros(*padding.shape, 2)
        hidden[..., 0], hidden[..., 1] = rows.unsqueeze(1), step
        return RefinementState(said, hidden, padding, DecoderMemory([], None))

    def word_scores(self, state: RefinementState) -> Tensor:
        """The i-th word has −i."""
        return -torch.arange(state.tokens.shape[1]).float().expand(state.tokens.shape)


def run(generator: RefinementGenerator, scripts: list[list[list[int]]]) -> tuple[list[dict], ScriptedModel]:
    model = ScriptedModel(scripts)
    return [h for (h,) in generator.generate([model], sample(sentences(len(scripts))))], model
