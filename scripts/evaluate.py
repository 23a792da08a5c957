"""Score a refinement model: BLEU and chrF with sacreBLEU's signatures at several numbers of steps, and its speed.

Sentences out must equal sentences in. BLEU is of detokenised text against the raw references; where the data was prepared
lower-cased or already tokenised, text is compared as it was prepared and the JSON says so.
"""

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils
from fairseq.tasks import FairseqTask
from run_record import hardware, run_record, write_json
from sacrebleu.metrics import BLEU, CHRF
from sacremoses import MosesDetokenizer

import momentum_fairseq  # noqa: F401  (registers the task, the model and safe loading)
from momentum_fairseq.refinement_generator import RefinementGenerator

ADAPTIVE_MAX_STEPS = 10
MODEL_SETTINGS = (
    *("embed_dim", "ffn_dim", "layers", "heads", "dropout", "feed_forward", "share_all_embeddings"),
    *("attention", "attention_momentum", "attention_step_size", "attention_momentum_learned"),
    *("connection", "connection_momentum", "connection_step_size"),
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder made by prepare_parallel.sh")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--name", help="what to call this row (default: the checkpoint's folder)")
    parser.add_argument("--splits", nargs="+", default=["valid", "test"], choices=["valid", "test"])
    parser.add_argument("--steps", nargs="+", default=["1", "2", "5", "10", "adaptive"], metavar="N|adaptive")
    parser.add_argument("--lengths", nargs="+", default=["predicted", "oracle"], choices=["predicted", "oracle"])
    parser.add_argument("--length-beam", type=int, default=1)
    parser.add_argument("--collapse-repeats", action="store_true", help="as the paper's published code does")
    parser.add_argument("--max-tokens", type=int, default=4096, help="tokens a batch when scoring")
    parser.add_argument("--speed-runs", type=int, default=3, help="timed runs, the median counts; 0 times nothing")
    parser.add_argument("--speed-sentences", type=int, default=100, help="sentences timed at batch 1")
    parser.add_argument("--cpu", action="store_true", help="don't use a GPU")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    options = parser.parse_args(arguments)
    for steps in options.steps:
        if steps != "adaptive" and not (steps.isdigit() and int(steps) > 0):
            parser.error(f"--steps {steps}: must be a positive number or 'adaptive'")
    if not options.checkpoint.is_file():
        parser.error(f"{options.checkpoint}: no such checkpoint")
    if not (options.data / "data-bin").is_dir():
        parser.error(f"{options.data}: no data-bin in it; make it with scripts/prepare_parallel.sh")
    return options


def prepared_settings(folder: Path) -> dict[str, str]:
    """The KEY=VALUE lines of prepare_parallel.sh's settings.txt."""
    lines = (folder / "settings.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


class Scorer:
    """Turns tokens into text and scores it."""

    def __init__(self, folder: Path, dictionary: Any) -> None:
        settings = prepared_settings(folder)
        self.folder, self.dictionary, self.language = folder, dictionary, settings["TARGET_LANG"]
        self.lowercase, self.tokenized = settings["LOWERCASE"] == "1", settings["TOKENIZED"] == "1"
        self.detokenizer = MosesDetokenizer(lang=self.language)

    def references(self, split: str) -> list[str]:
        return (self.folder / f"ref.{split}.{self.language}").read_text(encoding="utf-8").rstrip("\n").split("\n")

    def text(self, tokens: torch.Tensor) -> str:
        words = self.dictionary.string(tokens.int().cpu(), "@@ ")
        return words if self.tokenized else self.detokenizer.detokenize(words.split())

    def score(self, hypotheses: list[str], references: list[str]) -> dict[str, Any]:
        if len(hypotheses) != len(references):
            raise SystemExit(f"error: {len(references)} sentences in, {len(hypotheses)} out; not scored")
        bleu, chrf = BLEU(lowercase=self.lowercase), CHRF(lowercase=self.lowercase)
        return {
            "bleu": round(bleu.corpus_score(hypotheses, [references]).score, 2),
            "bleu_signature": str(bleu.get_signature()),
            "chrf": round(chrf.corpus_score(hypotheses, [references]).score, 2),
            "chrf_signature": str(chrf.get_signature()),
        }


def batches(task: FairseqTask, split: str, device: torch.device, **limits: int) -> list[dict[str, Any]]:
    """All batches of a split on the device, every sentence in one of them."""
    task.load_dataset(split)
    iterator = task.get_batch_iterator(task.dataset(split), max_positions=task.max_positions(), **limits)
    return [utils.move_to_cuda(b) if device.type == "cuda" else b for b in iterator.next_epoch_itr(shuffle=False)]


def translate(generator: RefinementGenerator, model: Any, samples: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Sentence number → its best hypothesis."""
    return {
        number: hypotheses[0]
        for sample in samples
        for number, hypotheses in zip(sample["id"].tolist(), generator.generate([model], sample), strict=True)
    }


def speed(
    generator: RefinementGenerator, model: Any, samples: list[dict[str, Any]], device: torch.device, runs: int
) -> dict[str, Any]:
    """Target sub-words and sentences a second, warm; the median of `runs` and all of them."""
    warm_up = translate(generator, model, samples[: max(1, len(samples) // 10)])
    del warm_up
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        results = translate(generator, model, samples)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    tokens = sum(len(result["tokens"]) for result in results.values())
    median = statistics.median(seconds)
    return {
        "sentences": len(results),
        "subwords": tokens,
        "subwords_per_second": round(tokens / median, 1),
        "sentences_per_second": round(len(results) / median, 2),
        "seconds_of_each_run": [round(s, 3) for s in seconds],
    }


def main() -> None:
    options = parse_arguments()
    logging.disable(logging.INFO)  # fairseq's own progress
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(options.checkpoint)], arg_overrides={"data": str(options.data / "data-bin"), "eval_bleu": False}
    )
    model = models[0].to(device).eval()
    scorer = Scorer(options.data, task.target_dictionary)

    def generator(steps: str, lengths: str) -> RefinementGenerator:
        return RefinementGenerator(
            task.target_dictionary,
            max_steps=ADAPTIVE_MAX_STEPS if steps == "adaptive" else int(steps),
            adaptive=steps == "adaptive",
            stopping=str(task.cfg.stopping),
            window=task.cfg.stopping_window,
            length_beam=1 if lengths == "oracle" else options.length_beam,
            oracle_length=lengths == "oracle",
            collapse_repeats=options.collapse_repeats,
        )

    scores, speeds = [], []
    for split in options.splits:
        samples, references = batches(task, split, device, max_tokens=options.max_tokens), scorer.references(split)
        for lengths in options.lengths:
            for steps in options.steps:
                results = translate(generator(steps, lengths), model, samples)
                hypotheses = [scorer.text(results[i]["tokens"]) for i in sorted(results)]
                row = {"split": split, "lengths": lengths, "steps": steps, **scorer.score(hypotheses, references)}
                row["mean_steps"] = round(statistics.mean(r["steps"] for r in results.values()), 2)
                scores.append(row)
                print(f"{split:5} {lengths:9} steps {steps:8} BLEU {row['bleu']:6.2f}  chrF {row['chrf']:6.2f}", flush=True)
    if options.speed_runs:
        split = options.splits[-1]
        batched = batches(task, split, device, max_tokens=options.max_tokens)
        singles = batches(task, split, device, max_sentences=1)
        stride = max(1, len(singles) // options.speed_sentences)
        for steps in options.steps:
            for name, samples in (("1", singles[::stride]), (f"{options.max_tokens} tokens", batched)):
                result = speed(generator(steps, "predicted"), model, samples, device, options.speed_runs)
                speeds.append({"split": split, "steps": steps, "batch": name, **result})
                print(
                    f"steps {steps:8} batch {name:12} {result['subwords_per_second']:9.1f} sub-words/s "
                    f"{result['sentences_per_second']:8.2f} sentences/s",
                    flush=True,
                )
    state = checkpoint_utils.load_checkpoint_to_cpu(str(options.checkpoint))
    write_json(
        options.out,
        {
            "name": options.name or options.checkpoint.resolve().parent.name,
            **run_record(sys.argv),
            **hardware(device),
            "text": {"lowercased": scorer.lowercase, "tokenized": scorer.tokenized},
            "model": {key: getattr(cfg.model, key) for key in MODEL_SETTINGS if hasattr(cfg.model, key)},
            "parameters": sum(p.numel() for p in model.parameters()),
            "updates": state["optimizer_history"][-1]["num_updates"],
            "seed": cfg.common.seed,
            "length_beam": options.length_beam,
            "collapse_repeats": options.collapse_repeats,
            "scores": scores,
            "speeds": speeds,
        },
    )


if __name__ == "__main__":
    main()
