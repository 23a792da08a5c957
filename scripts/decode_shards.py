"""Translate a prepared training set by a teacher's beam search, shard by shard, each whole or not at all.

Sequence-level distillation (Kim and Rush, EMNLP 2016): a hypothesis stays in the sub-words that the teacher gave. Several of
these can run side by side, on one machine or on several with shared storage: each takes the next shard that nobody has.
"""

import argparse
import fcntl
import logging
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from checkpoint_data import check_binarised
from common.parallel_text import InputError, run
from common.run_record import plugin_record
from common.shards import Shard, all_shards
from common.user_dir import add_user_dir
from fairseq import checkpoint_utils, utils

import momentum_fairseq  # noqa: F401  (registers the tasks, the models and safe loading)


class Teacher:
    """An autoregressive model with its beam search.

    Raises:
        InputError: not a checkpoint of an autoregressive model.
        SystemExit: a checkpoint for other data.
    """

    def __init__(
        self, checkpoint: Path, data: Path, languages: tuple[str, str], device: torch.device, beam: int, lenpen: float
    ) -> None:
        if not checkpoint.is_file():
            raise InputError(f"{checkpoint}: no such checkpoint")
        try:
            state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
        except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise InputError(f"{checkpoint}: not a whole checkpoint of fairseq: {str(error).splitlines()[0]}") from None
        task = state["cfg"].task
        if task._name != "translation":
            raise InputError(f"{checkpoint}: a model of the task {task._name}; a teacher decodes by beam search (translation)")
        check_binarised(checkpoint, task, data, languages)
        task.data, task.eval_bleu, (task.source_lang, task.target_lang) = str(data), False, languages
        try:
            (model,), cfg, self.task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], state=state)
        except RuntimeError as error:
            mismatches = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
            if not mismatches:
                raise
            raise InputError(f"{checkpoint}: was trained with another dictionary than {data} has: {mismatches[0]}") from None
        self.model, self.device = model.to(device).eval(), device
        # A hypothesis of fairseq's 200 words is a loop; twice the source and ten more are enough for any other.
        options = argparse.Namespace(beam=beam, lenpen=lenpen, max_len_a=2, max_len_b=10)
        self.generator = self.task.build_generator([self.model], options)
        updates = state["optimizer_history"][-1]["num_updates"]
        self.facts = {"arch": str(cfg.model._name), "updates": updates, "beam": beam, "lenpen": lenpen}
        self.task.load_dataset("train")
        self.dataset = self.task.dataset("train")

    def translate(self, lines: range, max_tokens: int) -> list[str]:
        """The best hypothesis of each sentence, in sub-words, in order.

        A batch is of sentences of one length: without padding, a hypothesis doesn't depend on its batch, nor does the number of
        words at which a search that finds no end is cut.

        Raises:
            InputError: a sentence is longer than the model takes.
        """
        sizes, limit = self.dataset.src_sizes, min(self.model.max_positions()[0], max_tokens)
        for line in lines:
            if sizes[line] > limit:
                raise InputError(f"training set, line {line + 1}: {sizes[line]:,} sub-words, more than {limit:,}")
        found = {}
        for size, group in groupby(sorted(lines, key=lambda line: sizes[line]), key=lambda line: sizes[line]):
            same, step = list(group), max_tokens // size
            for i in range(0, len(same), step):
                found.update(self._translate_batch(same[i : i + step]))
        return [found[line] for line in lines]

    def _translate_batch(self, numbers: list[int]) -> Iterator[tuple[int, str]]:
        sample: dict[str, Any] = self.dataset.collater([self.dataset[number] for number in numbers])
        if self.device.type == "cuda":
            sample = utils.move_to_cuda(sample, self.device)
        hypotheses = self.task.inference_step(self.generator, [self.model], sample)
        for number, ranked in zip(sample["id"].tolist(), hypotheses, strict=True):
            yield number, self.task.target_dictionary.string(ranked[0]["tokens"].cpu())


@contextmanager
def claimed(shard: Shard) -> Iterator[bool]:
    """Whether the shard is this process's to decode; nobody else's until the block ends, or the process does."""
    with shard.text.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free


def decode(options: argparse.Namespace) -> None:
    """Decodes every shard that neither stands nor is another process's."""
    visible = 0 if options.cpu else torch.cuda.device_count()
    device = torch.device("cuda", options.worker % visible) if visible else torch.device("cpu")
    languages = (options.source_lang, options.target_lang)
    teacher = Teacher(options.checkpoint, options.data / "data-bin", languages, device, options.beam, options.lenpen)
    facts = {**teacher.facts, **plugin_record(options.user_dir)}
    options.out.mkdir(parents=True, exist_ok=True)
    for shard in all_shards(options.out, options.shards, len(teacher.dataset)):
        with claimed(shard) as free:
            fault = shard.fault() if free else None
            if not fault:
                continue
            if shard.text.exists():
                print(f"decode: {shard.text.name}: {fault}; decoding it again", flush=True)
            start = time.perf_counter()
            hypotheses = teacher.translate(shard.lines, options.max_tokens)
            seconds = time.perf_counter() - start
            shard.write(hypotheses, {"seconds": round(seconds, 2), "teacher": facts})
            speed = len(hypotheses) / seconds
            print(f"decode: {shard.text.name}: {len(hypotheses):,} sentences, {speed:.1f} a second", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder made by prepare_parallel.sh")
    parser.add_argument("checkpoint", type=Path, help="the teacher")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--source-lang", required=True, help="what is translated from, such as en")
    parser.add_argument("--target-lang", required=True, help="and into, such as de")
    parser.add_argument("--shards", type=int, required=True, help="parts of the training set")
    parser.add_argument("--worker", type=int, default=0, help="number of this process; chooses its GPU (0)")
    parser.add_argument("--beam", type=int, default=4, help="hypotheses (4)")
    parser.add_argument("--lenpen", type=float, default=1.0, help="exponent of the length that scores are divided by (1)")
    parser.add_argument("--max-tokens", type=int, default=4096, help="source tokens a batch, each times the beam (4096)")
    parser.add_argument("--cpu", action="store_true", help="don't use a GPU")
    add_user_dir(parser)
    return parser.parse_args()


if __name__ == "__main__":
    logging.disable(logging.INFO)  # fairseq's own progress
    run(lambda: decode(parse_options()))
