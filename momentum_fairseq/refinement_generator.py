"""Decoding by iterative refinement (Lee et al., EMNLP 2018, section 3.3)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from momentum_fairseq.models.momentum_nat import MomentumNatModel
from momentum_fairseq.models.nat_encoder import EncoderOutput
from momentum_fairseq.modules.packed_linear import packed_weights
from momentum_fairseq.refinement_batches import FEW_WORDS, Batch, begin, groups_of_like_length, join
from momentum_fairseq.teacher_scorer import TeacherScorer

STOPPING_RULES = ("equality", "jaccard")
Hypothesis = dict[str, Any]


class RefinementGenerator:
    """Translate in at most `max_steps` decoder passes, the first by decoder 1, the others by decoder 2; argmax in each.

    A sentence's output doesn't depend on the batch it is in. Finished sentences leave the batch.

    Args:
        target_dictionary: for the ids of BOS, padding and EOS.
        max_steps: decoder passes, the initial translation included.
        adaptive: stop a sentence early by the stopping rule; if False all get `max_steps` passes.
        stopping: `equality`: the output repeats the one before; `jaccard`: the Jaccard index of the token multisets is 1 over
            the last `window` outputs.
        window: outputs that the Jaccard rule compares.
        length_beam: lengths tried for each sentence; the output with the best mean log p in its last pass wins.
        oracle_length: use the reference's length instead of the predicted one.
        collapse_repeats: drop each token that equals the one before it from the result (not part of the method: the paper's
            published code does this).
        retain_history: keep the output of every pass.
        scorer: an autoregressive teacher whose score, in place of the model's own, ranks the length beam.

    Raises:
        ValueError: a value out of range, a length beam with oracle lengths, or a scorer without a length beam.
    """

    def __init__(
        self,
        target_dictionary: Any,
        *,
        max_steps: int = 10,
        adaptive: bool = True,
        stopping: str = "equality",
        window: int = 5,
        length_beam: int = 1,
        oracle_length: bool = False,
        collapse_repeats: bool = False,
        retain_history: bool = False,
        scorer: TeacherScorer | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(
                f"max_steps (--iter-decode-max-iter) must be at least 1, got {max_steps}: the initial translation counts"
            )
        if stopping not in STOPPING_RULES:
            raise ValueError(f"unknown stopping rule {stopping!r}; choose from {', '.join(STOPPING_RULES)}")
        if window < 2:
            raise ValueError(f"window (--stopping-window) must be at least 2, got {window}")
        if length_beam < 1:
            raise ValueError(f"length_beam (--iter-decode-with-beam) must be at least 1, got {length_beam}")
        if oracle_length and length_beam > 1:
            raise ValueError(f"oracle lengths leave nothing to a length beam of {length_beam}; choose one of the two")
        if scorer is not None and length_beam == 1:
            raise ValueError("a teacher has nothing to rank: --rescore-with needs --iter-decode-with-beam of at least 2")
        self.scorer = scorer
        self.padding = target_dictionary.pad()
        self.symbols_to_strip_from_output = {target_dictionary.bos(), self.padding, target_dictionary.eos()}
        self.max_steps, self.adaptive, self.stopping, self.window = max_steps, adaptive, stopping, window
        self.length_beam, self.oracle_length = length_beam, oracle_length
        self.collapse_repeats, self.retain_history = collapse_repeats, retain_history

    @torch.inference_mode()
    def generate(
        self,
        models: list[MomentumNatModel],
        sample: dict[str, Any],
        prefix_tokens: Tensor | None = None,
        constraints: Tensor | None = None,
    ) -> list[list[Hypothesis]]:
        """Translate a batch.

        Args:
            models: exactly one. sample: `net_input.src_tokens` `[B,S]`, and `target` `[B,N]` for oracle lengths.

        Returns:
            For each sentence its hypotheses, best first: `tokens` int64 `[T]`, `score` (mean log p in the last pass, or the
            scorer's), `positional_scores` `[T]`, `steps`, with history `history`, a list of {`tokens`}, and
            `alignment` and `attention`, None, which fairseq looks for.

        Raises:
            ValueError: an ensemble, a prefix or constraints, which refinement can't honour; oracle lengths without a target.
        """
        if len(models) != 1:
            raise ValueError(f"iterative refinement decodes with one model, got an ensemble of {len(models)}")
        if prefix_tokens is not None or constraints is not None:
            raise ValueError("iterative refinement can't honour a prefix (--prefix-size) or --constraints")
        model = models[0]
        model.eval()  # returns None once fairseq has prepared the model for inference
        with packed_weights(model):
            source = model.encode(sample["net_input"]["src_tokens"])
            lengths = self._lengths(model, source, sample)  # [B, beam]
            sentences, beam = lengths.shape
            if beam > 1:
                source = source.repeat(beam)
            hypotheses = self._translate(model, source, lengths.flatten())
        if self.scorer is not None:
            sources = sample["net_input"]["src_tokens"].repeat_interleave(beam, dim=0)
            for hypothesis, score in zip(hypotheses, self.scorer.score(sources, [h["tokens"] for h in hypotheses]), strict=True):
                hypothesis["score"] = score
        ranked = []
        for i in range(sentences):
            candidates = hypotheses[i * beam : (i + 1) * beam]
            ranked.append(sorted(candidates, key=lambda h: h["score"], reverse=True))
        return ranked

    def _lengths(self, model: MomentumNatModel, source: EncoderOutput, sample: dict[str, Any]) -> Tensor:
        if not self.oracle_length:
            return model.predict_lengths(source, self.length_beam)
        if sample.get("target") is None:
            raise ValueError("oracle lengths need references; this input has none")
        return sample["target"].ne(self.padding).sum(1, keepdim=True).clamp(min=1)

    def _translate(self, model: MomentumNatModel, source: EncoderOutput, lengths: Tensor) -> list[Hypothesis]:
        """Translate sentences to `lengths` words, int64 `[B]`; one hypothesis each.

        On a CPU those of like length are refined together, and when few of them are left they wait for the last of the others.
        """
        records: list[Hypothesis] = [{"history": []} for _ in range(len(lengths))]
        groups = groups_of_like_length(lengths, source.embedding.shape[-1])
        batches: Iterable[Batch] = (self._begin(model, source, lengths, rows, records) for rows in groups)
        count = len(groups)
        while count:
            fewest = FEW_WORDS if count > 1 else 0
            left = [batch for batch in (self._refine(model, batch, records, fewest) for batch in batches) if batch is not None]
            batches = left if len(left) < 2 else list(join(model, source, lengths, left))
            count = len(batches)
        return [self._hypothesis(record) for record in records]

    def _begin(
        self, model: MomentumNatModel, source: EncoderOutput, lengths: Tensor, rows: Tensor, records: list[Hypothesis]
    ) -> Batch:
        batch = begin(model, source, lengths, rows)
        self._remember(batch, records)
        return batch

    def _refine(self, model: MomentumNatModel, batch: Batch, records: list[Hypothesis], fewest: int) -> Batch | None:
        """Run passes and record the sentences that finish, until at most `fewest` words are left: these, or None."""
        left = self._leave(model, batch, records)
        while left is not None:
            state = model.refine(left.state)
            same_for = torch.where(self._unchanged(left.state.tokens, state.tokens), left.same_for + 1, 0)
            batch = Batch(left.rows, state, left.steps + 1, same_for)
            self._remember(batch, records)
            left = self._leave(model, batch, records)
            if left is not None and left.state.tokens.numel() <= fewest:
                break
        return left

    def _leave(self, model: MomentumNatModel, batch: Batch, records: list[Hypothesis]) -> Batch | None:
        """Record the sentences that are finished; the others, None where there are none."""
        finished = self._finished(batch)
        done, going = finished.nonzero().squeeze(1), (~finished).nonzero().squeeze(1)
        if len(done) == 0:
            return batch
        self._record(model, batch if len(going) == 0 else batch.select(done), records)
        return batch.select(going) if len(going) > 0 else None

    def _remember(self, batch: Batch, records: list[Hypothesis]) -> None:
        """Add the outputs to the history."""
        if self.retain_history:
            for row, tokens in zip(batch.rows.tolist(), batch.state.tokens.unbind(), strict=True):
                records[row]["history"].append(tokens)

    def _unchanged(self, previous: Tensor, current: Tensor) -> Tensor:
        """Rows whose output repeats: as a sequence, or as a multiset for the Jaccard rule (index 1 = equal multisets)."""
        if self.stopping == "jaccard":
            previous, current = previous.sort(1).values, current.sort(1).values
        return (previous == current).all(1)

    def _finished(self, batch: Batch) -> Tensor:
        """Which sentences are finished, bool `[B]`."""
        finished = batch.steps >= self.max_steps
        if self.adaptive:
            finished |= batch.same_for >= (1 if self.stopping == "equality" else self.window - 1)
        return finished

    def _record(self, model: MomentumNatModel, batch: Batch, records: list[Hypothesis]) -> None:
        """Keep what finished sentences have become."""
        scores = model.word_scores(batch.state)
        lengths, steps = (~batch.state.padding_mask).sum(1).tolist(), batch.steps.tolist()
        for i, row in enumerate(batch.rows.tolist()):
            length = lengths[i]
            records[row] = {
                "tokens": batch.state.tokens[i, :length],
                "positional_scores": scores[i, :length],
                "steps": steps[i],
                "history": [{"tokens": tokens[:length]} for tokens in records[row]["history"]],
            }

    def _hypothesis(self, record: Hypothesis) -> Hypothesis:
        tokens, scores = record["tokens"], record["positional_scores"]
        if self.collapse_repeats:
            keep = torch.ones_like(tokens, dtype=torch.bool)
            keep[1:] = tokens[1:] != tokens[:-1]
            tokens, scores = tokens[keep], scores[keep]
        with torch.inference_mode(False):
            scores = scores.clone()  # fairseq-generate divides it in place, which inference tensors refuse
        hypothesis = {**record, "tokens": tokens, "positional_scores": scores, "alignment": None, "attention": None}
        hypothesis["score"] = float(scores.mean())
        if not self.retain_history:
            del hypothesis["history"]
        return hypothesis
