"""Translating a set with either kind of model, by refinement or by beam search, and how fast."""

import statistics
import time
from argparse import Namespace
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from fairseq import utils
from fairseq.tasks import FairseqTask

from common.measuring import synchronise
from momentum_fairseq.refinement_generator import RefinementGenerator
from momentum_fairseq.tasks.translation_nat import TranslationNatTask
from momentum_fairseq.teacher_scorer import TeacherScorer

ADAPTIVE_MAX_STEPS = 10
MAX_WORDS = 200  # of a beam search that finds no end, whatever its batch; as in generate.sh
LENGTH_CLASS = 10  # sub-words of the source by which the speed at batch 1 is told apart

Sample = dict[str, Any]


class Translation(NamedTuple):
    """One sentence: int64 `[T]` without EOS, and the decoder passes it took (by beam search, its words and EOS)."""

    tokens: torch.Tensor
    steps: int


class Decoder:
    """A way to translate with a model: `steps` passes with `lengths`, or a beam.

    Args:
        generator: fairseq's or ours. lengths: `predicted` or `oracle`. steps: a number, `adaptive`, or `beam N`.
    """

    def __init__(self, model: Any, generator: Any, lengths: str, steps: str) -> None:
        self.model, self.generator, self.lengths, self.steps = model, generator, lengths, steps

    def translate(self, samples: Iterable[Sample]) -> dict[int, Translation]:
        """Sentence number → its best translation."""
        return {
            number: self._translation(hypotheses[0])
            for sample in samples
            for number, hypotheses in zip(sample["id"].tolist(), self.generator.generate([self.model], sample), strict=True)
        }

    @staticmethod
    def _translation(hypothesis: dict[str, Any]) -> Translation:
        tokens = hypothesis["tokens"]
        if "steps" in hypothesis:
            return Translation(tokens, hypothesis["steps"])
        return Translation(tokens[:-1], len(tokens))  # beam search ends each with EOS


def decoders(task: FairseqTask, model: Any, options: Namespace) -> list[Decoder]:
    """All that `options` ask for (`lengths`, `steps`, `length_beam`, `rescore_with`, `collapse_repeats`; `beam` for an
    autoregressive model).
    """
    if not isinstance(task, TranslationNatTask):
        generator = task.build_generator([model], Namespace(beam=options.beam, max_len_a=0, max_len_b=MAX_WORDS))
        return [Decoder(model, generator, "predicted", f"beam {options.beam}")]
    scorer = TeacherScorer.load(str(options.rescore_with), task) if options.rescore_with else None
    return [
        Decoder(model, refinement(task, options, lengths, steps, scorer), lengths, steps)
        for lengths in options.lengths
        for steps in options.steps
    ]


def refinement(
    task: TranslationNatTask, options: Namespace, lengths: str, steps: str, scorer: TeacherScorer | None
) -> RefinementGenerator:
    return RefinementGenerator(
        task.target_dictionary,
        max_steps=ADAPTIVE_MAX_STEPS if steps == "adaptive" else int(steps),
        adaptive=steps == "adaptive",
        stopping=str(task.cfg.stopping),
        window=task.cfg.stopping_window,
        length_beam=1 if lengths == "oracle" else options.length_beam,
        oracle_length=lengths == "oracle",
        scorer=None if lengths == "oracle" else scorer,  # one length, nothing to rank
        collapse_repeats=options.collapse_repeats,
    )


def batches(task: FairseqTask, split: str, device: torch.device, **limits: int) -> list[Sample]:
    """All batches of a split on the device, shortest first, every sentence in one of them."""
    task.load_dataset(split)
    iterator = task.get_batch_iterator(
        task.dataset(split), max_positions=task.max_positions(), required_batch_size_multiple=1, **limits
    )
    return [utils.move_to_cuda(b) if device.type == "cuda" else b for b in iterator.next_epoch_itr(shuffle=False)]


def speed(decoder: Decoder, samples: list[Sample], device: torch.device, runs: int) -> dict[str, Any]:
    """Target sub-words and sentences a second: the median of `runs`, after one that warms up, and all of them.

    With one sentence a batch also by the source's length.
    """
    decoder.translate(samples)
    seconds, words = [], []
    for _ in range(runs):
        times, words = [], []
        for sample in samples:
            synchronise(device)
            start = time.perf_counter()
            translations = decoder.translate([sample])
            synchronise(device)
            times.append(time.perf_counter() - start)
            words.append(sum(len(translation.tokens) for translation in translations.values()))
        seconds.append(times)
    sentences = sum(len(sample["id"]) for sample in samples)
    totals = [sum(times) for times in seconds]
    median = statistics.median(totals)
    result = {
        "sentences": sentences,
        "subwords": sum(words),
        "subwords_per_second": round(sum(words) / median, 1),
        "sentences_per_second": round(sentences / median, 2),
        "seconds_of_each_run": [round(total, 3) for total in totals],
    }
    if sentences == len(samples):
        lengths = [int(sample["net_input"]["src_lengths"][0]) - 1 for sample in samples]
        result["by_length"] = speed_by_length(lengths, words, seconds)
    return result


def speed_by_length(lengths: list[int], words: list[int], seconds: list[list[float]]) -> list[dict[str, Any]]:
    """For each class of source lengths, in sub-words without EOS, target sub-words a second in the median run.

    Args:
        lengths, words: of each sentence, source and translation. seconds: `[runs, sentences]`.
    """
    classes: dict[int, list[int]] = {}
    for sentence, length in enumerate(lengths):
        classes.setdefault((length - 1) // LENGTH_CLASS, []).append(sentence)
    return [
        {
            "source_subwords": [first * LENGTH_CLASS + 1, (first + 1) * LENGTH_CLASS],
            "sentences": len(members),
            "subwords_per_second": round(
                sum(words[i] for i in members) / statistics.median(sum(times[i] for i in members) for times in seconds), 1
            ),
        }
        for first, members in sorted(classes.items())
    ]
