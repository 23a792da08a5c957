"""Score a model: BLEU and chrF with sacreBLEU's signatures at several numbers of decoder passes, and its speed.

A refinement model is scored with predicted and with oracle lengths; an autoregressive one (any of fairseq's `translation` task)
with a beam. Sentences out must equal sentences in. The JSON keeps each sentence's BLEU statistics, for table.py's intervals.
"""

import argparse
import logging
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from checkpoint_data import check_data
from common.bootstrap import pack
from common.checked_options import output_file, output_folder
from common.run_record import hardware, run_record, training_record
from common.scoring import Scorer, describe_data, training_folder, training_set
from common.translating import Decoder, batches, decoders, speed
from common.user_dir import add_user_dir
from common.whole_file import write_json, write_text
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.tasks import FairseqTask

import momentum_fairseq  # noqa: F401  (registers the task, the model and safe loading)
from momentum_fairseq.tasks.translation_nat import TranslationNatTask

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LEAST_RUNS = 3
STEPS = ["1", "2", "5", "10", "adaptive"]
LENGTHS = ["predicted", "oracle"]
MODEL_SETTINGS = (
    *("embed_dim", "ffn_dim", "layers", "heads", "dropout", "feed_forward", "share_all_embeddings"),
    *("attention", "attention_momentum", "attention_step_size", "attention_momentum_learned", "attention_feature_map"),
    *("connection", "connection_momentum", "connection_step_size", "connection_delta", "connection_ratio", "connection_chain"),
    *("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_layers", "decoder_layers", "encoder_attention_heads"),
)
TASK_SETTINGS = ("train_steps", "denoising_probability", "corruption_rate", "stopping")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder made by prepare_parallel.sh")
    parser.add_argument("checkpoint", type=Path, help="a trained model")
    parser.add_argument("out", type=output_file, help="JSON file to write")
    parser.add_argument("--name", help="what to call this row (default: the checkpoint's folder)")
    parser.add_argument("--splits", nargs="+", default=["valid", "test"], choices=["valid", "test"], help="sets (both)")
    parser.add_argument("--steps", nargs="+", default=STEPS, metavar="N|adaptive", help=f"decoder passes ({' '.join(STEPS)})")
    parser.add_argument("--lengths", nargs="+", default=LENGTHS, choices=LENGTHS, help="of the translations (both)")
    parser.add_argument("--length-beam", type=int, default=1, help="lengths that are tried (1)")
    parser.add_argument("--rescore-with", type=Path, metavar="CHECKPOINT", help="teacher that ranks the length beam")
    parser.add_argument("--collapse-repeats", action="store_true", help="as the paper's published code does")
    parser.add_argument("--beam", type=int, default=4, help="of an autoregressive model (4)")
    parser.add_argument("--max-tokens", type=int, default=4096, help="tokens a batch when scoring (4096)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the model's weights and activations (float32)")
    parser.add_argument("--speed-runs", type=int, default=3, help="timed runs, the median counts; 0 times nothing (3)")
    parser.add_argument("--speed-sentences", type=int, default=100, help="sentences timed at batch 1 (100)")
    hypotheses = "also write the translations, a file for each score"
    parser.add_argument("--hypotheses", type=output_folder, metavar="FOLDER", help=hypotheses)
    parser.add_argument("--cpu", action="store_true", help="don't use a GPU")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    add_user_dir(parser)
    options = parser.parse_args(arguments)
    for steps in options.steps:
        if steps != "adaptive" and not (steps.isdigit() and int(steps) > 0):
            parser.error(f"--steps {steps}: must be a positive number or 'adaptive'")
    if options.speed_runs != 0 and options.speed_runs < LEAST_RUNS:
        parser.error(f"--speed-runs {options.speed_runs}: a median wants at least {LEAST_RUNS}; 0 times nothing")
    for name in ("length_beam", "beam", "max_tokens", "speed_sentences"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    for checkpoint in filter(None, (options.checkpoint, options.rescore_with)):
        if not checkpoint.is_file():
            parser.error(f"{checkpoint}: no such checkpoint")
    if options.rescore_with and options.length_beam < 2:
        parser.error(f"--rescore-with {options.rescore_with}: there is nothing to rank without --length-beam of 2 or more")
    if not (options.data / "data-bin").is_dir():
        parser.error(f"{options.data}: no data-bin in it; make it with scripts/prepare_parallel.sh")
    return options


def load(options: argparse.Namespace, device: torch.device) -> tuple[Any, Any, FairseqTask, Path | None]:
    """The model as fairseq-generate would use it, its configuration and its task, on the data of this run; and the prepared
    folder that it was trained on, None where that isn't there any more.
    """
    state = checkpoint_utils.load_checkpoint_to_cpu(str(options.checkpoint))
    check_data(options.checkpoint, state["cfg"], options.data)
    trained_on = training_folder(state["cfg"].task.data)
    overwrite_args_by_name(state["cfg"], {"data": str(options.data / "data-bin"), "eval_bleu": False})
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(options.checkpoint)], state=state)
    model = models[0].to(device, DTYPES[options.dtype]).eval()
    model.prepare_for_inference_(cfg)
    return model, cfg, task, trained_on


def refuse_ignored(task: FairseqTask, options: argparse.Namespace) -> None:
    """End with a message where an autoregressive model is to be scored with what only a refinement model has."""
    given = {"--length-beam": options.length_beam > 1, "--collapse-repeats": options.collapse_repeats}
    flags = [flag for flag, holds in given.items() if holds]
    if flags and not isinstance(task, TranslationNatTask):
        raise SystemExit(
            f"error: {options.checkpoint} translates by beam search (--beam); {', '.join(flags)}: of refinement models only"
        )


def measure_scores(
    ways: Iterable[Decoder], task: FairseqTask, scorer: Scorer, device: torch.device, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every split's scores by each way of decoding; and split → the packed statistics of its scores, in the same order."""
    scores, kept = [], {}
    for split in options.splits:
        samples, references = batches(task, split, device, max_tokens=options.max_tokens), scorer.references(split)
        of_sentences = []
        for way in ways:
            translations = way.translate(samples)
            hypotheses = [scorer.text(translations[number].tokens) for number in sorted(translations)]
            score, sentences = scorer.score(hypotheses, references)
            of_sentences.append(sentences)
            mean_steps = round(statistics.mean(t.steps for t in translations.values()), 2)
            scores.append({"split": split, "lengths": way.lengths, "steps": way.steps, **score, "mean_steps": mean_steps})
            if options.hypotheses:
                write_hypotheses(options.hypotheses, f"{split}.{way.lengths}.{way.steps.replace(' ', '')}", hypotheses)
            print(
                f"{split:5} {way.lengths:9} steps {way.steps:8} BLEU {score['bleu']:6.2f}  chrF {score['chrf']:6.2f}", flush=True
            )
        kept[split] = pack(of_sentences)
    return scores, kept


def write_hypotheses(folder: Path, name: str, hypotheses: list[str]) -> None:
    write_text(folder / name, "\n".join(hypotheses) + "\n")


def measure_speeds(
    ways: list[Decoder], task: FairseqTask, device: torch.device, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Speeds on the last split at batch 1 and batched, with the first kind of length; batch 1 on sentences of all lengths."""
    split = options.splits[-1]
    batched = batches(task, split, device, max_tokens=options.max_tokens)
    singles = batches(task, split, device, max_sentences=1)
    singles = singles[:: max(1, -(-len(singles) // options.speed_sentences))]
    speeds = []
    for way in (way for way in ways if way.lengths == ways[0].lengths):
        for name, samples in (("1", singles), (f"{options.max_tokens} tokens", batched)):
            result = speed(way, samples, device, options.speed_runs)
            speeds.append({"split": split, "lengths": way.lengths, "steps": way.steps, "batch": name, **result})
            print(
                f"steps {way.steps:8} batch {name:12} {result['subwords_per_second']:9.1f} sub-words/s "
                f"{result['sentences_per_second']:8.2f} sentences/s",
                flush=True,
            )
    return speeds


def main() -> None:
    options = parse_arguments()
    logging.disable(logging.INFO)  # fairseq's own progress
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    model, cfg, task, trained_on = load(options, device)
    refuse_ignored(task, options)
    scorer = Scorer(options.data, task.target_dictionary)
    ways = decoders(task, model, options)
    scores, kept = measure_scores(ways, task, scorer, device, options)
    speeds = measure_speeds(ways, task, device, options) if options.speed_runs else []
    write_json(
        options.out,
        {
            "name": options.name or options.checkpoint.resolve().parent.name,
            **run_record(sys.argv, options.user_dir),
            **hardware(device),
            "dtype": options.dtype,
            "text": {"lowercased": scorer.lowercase, "tokenized": scorer.tokenized},
            "data": describe_data(options.data, trained_on, {split: scorer.references(split) for split in options.splits}),
            "training_set": {} if trained_on is None else training_set(trained_on),
            "model": {key: getattr(cfg.model, key) for key in MODEL_SETTINGS if hasattr(cfg.model, key)},
            "task": {key: getattr(cfg.task, key) for key in TASK_SETTINGS if hasattr(cfg.task, key)},
            "parameters": sum(p.numel() for p in model.parameters()),
            **training_record(options.checkpoint),
            "seed": cfg.common.seed,
            "length_beam": options.length_beam,
            "rescored": options.rescore_with is not None,
            "collapse_repeats": options.collapse_repeats,
            "scores": scores,
            "speeds": speeds,
            "sentence_statistics": kept,
        },
    )


if __name__ == "__main__":
    main()
