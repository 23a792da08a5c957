"""Score a classifier of Long Range Arena: accuracy over every example of the dev and the test set, as JSON.

As fairseq-validate counts it. The JSON also has the training's curve, from train.log beside the checkpoint.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from common.checked_options import output_file, positive
from common.run_record import hardware, run_record, training_record
from common.train_log import read_curve, seconds_per_update
from common.trained_model import load_trained
from common.user_dir import add_user_dir
from common.whole_file import write_json
from fairseq import utils
from fairseq.tasks import FairseqTask

from momentum_fairseq.data.labelled_sequences import SequenceError, read_meta

MODEL_SETTINGS = (
    *("embed_dim", "ffn_dim", "layers", "heads", "dropout", "classifier_dim", "normalize_before", "feed_forward_activation"),
    *("attention", "attention_momentum", "attention_step_size", "attention_momentum_learned", "attention_feature_map"),
    *("connection", "connection_momentum", "connection_step_size", "connection_delta", "connection_ratio"),
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder made by prepare_lra.sh")
    parser.add_argument("checkpoint", type=Path, help="a trained classifier")
    parser.add_argument("out", type=output_file, help="JSON file to write")
    parser.add_argument("--name", help="what to call this row (default: the checkpoint's folder)")
    parser.add_argument("--splits", nargs="+", default=["valid", "test"], choices=["train", "valid", "test"], help="(valid test)")
    parser.add_argument("--batch-size", type=positive, default=32, help="examples at a time (32)")
    parser.add_argument("--full-updates", type=positive, help="updates of the published protocol, for the table to compare with")
    parser.add_argument("--full-batch-size", type=positive, help="its batch size")
    parser.add_argument("--cpu", action="store_true", help="don't use a GPU")
    add_user_dir(parser)
    return parser.parse_args(arguments)


@torch.inference_mode()
def score(task: FairseqTask, model: Any, criterion: Any, split: str, device: torch.device, batch_size: int) -> dict[str, Any]:
    """Examples, how many of them are right, accuracy in per cent and mean loss.

    Raises:
        RuntimeError: an example was lost on the way.
    """
    task.load_dataset(split)
    dataset = task.dataset(split)
    iterator = task.get_batch_iterator(dataset, max_sentences=batch_size, max_positions=task.max_positions())
    totals = {"examples": 0, "correct": 0, "loss": 0.0}
    for batch in iterator.next_epoch_itr(shuffle=False):
        *_, logged = task.valid_step(utils.move_to_cuda(batch, device) if device.type == "cuda" else batch, model, criterion)
        totals = {key: total + type(total)(logged[key]) for key, total in totals.items()}
    if totals["examples"] != len(dataset):
        raise RuntimeError(f"{split} has {len(dataset)} examples, but {totals['examples']} were scored")
    accuracy = round(100 * totals["correct"] / totals["examples"], 4)
    return {"split": split, **totals, "accuracy": accuracy, "loss": round(totals["loss"] / totals["examples"], 6)}


def protocol(cfg: Any, task: FairseqTask, options: argparse.Namespace) -> dict[str, Any]:
    """What the training was given, and the published protocol's updates and batches where they were named."""
    return {
        "batch_size": cfg.dataset.batch_size,
        "update_freq": list(cfg.optimization.update_freq),
        "lr": list(cfg.optimization.lr),
        "warmup_updates": cfg.lr_scheduler.warmup_updates,
        "max_positions": task.cfg.max_positions,
        "truncate": task.cfg.truncate,
        "full_updates": options.full_updates,
        "full_batch_size": options.full_batch_size,
        "full_max_positions": task.set.max_positions,
    }


def main() -> None:
    options = parse_arguments()
    logging.disable(logging.INFO)  # fairseq's own progress
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    model, task, cfg, trained_on = load_trained(options.checkpoint, "lra", device, {"data": str(options.data)})
    criterion = task.build_criterion(cfg.criterion)
    scores = []
    for split in options.splits:
        scores.append(score(task, model, criterion, split, device, options.batch_size))
        print("{split:5} accuracy {accuracy:.2f} % of {examples} examples, loss {loss:.4f}".format(**scores[-1]), flush=True)
    log = options.checkpoint.parent / "train.log"
    training = {"curve": read_curve(log), "seconds_per_update": seconds_per_update(log)} if log.is_file() else {}
    write_json(
        options.out,
        {
            "name": options.name or options.checkpoint.resolve().parent.name,
            "task": str(task.cfg.lra_task),
            **run_record(sys.argv, options.user_dir),
            **hardware(device),
            "data": about([task.dataset(split) for split in options.splits], Path(trained_on)),
            "model": {key: getattr(cfg.model, key) for key in MODEL_SETTINGS if hasattr(cfg.model, key)},
            "protocol": protocol(cfg, task, options),
            "parameters": sum(p.numel() for p in model.parameters()),
            **training_record(options.checkpoint),
            "seed": cfg.common.seed,
            "scores": scores,
            "training": training,
        },
    )


def about(datasets: list[Any], trained_on: Path) -> dict[str, Any]:
    """Of each split: its number of examples, the longest, the checksums of its files; how many were cut where it was scored.

    Args:
        datasets: of the splits that were scored; the other splits of their folder are told, too.
        trained_on: the folder that the model was trained on. Its training set is told, unless one was scored; where it isn't
            there any more, that is said aloud, and none is told.
    """
    said = dict(datasets[0].sequences.meta["splits"])
    scored = {dataset.sequences.split: dataset for dataset in datasets}
    if "train" not in scored:
        try:
            said["train"] = read_meta(trained_on)["splits"]["train"]
        except (SequenceError, KeyError):
            said.pop("train", None)
            print(f"warning: {trained_on}: the model was trained on it, and no set is there: training set unknown", flush=True)
    splits = {split: {key: facts[key] for key in ("count", "longest", "sha256")} for split, facts in said.items()}
    for split, dataset in scored.items():
        splits[split]["cut"] = dataset.cut
    return splits


if __name__ == "__main__":
    main()
