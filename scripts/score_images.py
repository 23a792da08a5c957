"""Score a model of images: bits per dimension of the test set, and the training's curve → JSON.

  python scripts/score_images.py runs/images/mnist-small/momentum-seed1/checkpoint_best.pt DATA --out momentum-seed1.json

DATA is the folder of the images. --images N scores N of them, drawn once and for all (as --scored-images of the task); 0: all.
"""

import argparse
import logging
import math
import sys
from pathlib import Path
from typing import Any

import torch
from common.checked_options import output_file
from common.image_model import load_image_model
from common.run_record import hardware, run_record, training_record
from common.train_log import read_curve, seconds_per_update
from common.user_dir import add_user_dir
from common.whole_file import write_json
from fairseq import utils

from momentum_fairseq.ops.logistic_mixture import logistic_mixture_log_prob

MODEL_SETTINGS = (
    *("embed_dim", "ffn_dim", "layers", "heads", "dropout", "mixture_components", "attention", "attention_momentum"),
    *("attention_step_size", "connection", "connection_momentum", "connection_step_size", "connection_delta"),
)


def score(task: Any, model: Any, split: str, device: torch.device, batch_size: int) -> dict[str, Any]:
    """Bits per dimension over all images of a split, and their standard error over images."""
    task.load_dataset(split)
    dataset = task.dataset(split)
    iterator = task.get_batch_iterator(dataset, max_sentences=batch_size)
    bits = []
    for batch in iterator.next_epoch_itr(shuffle=False):
        batch = utils.move_to_cuda(batch, device) if device.type == "cuda" else batch
        with torch.inference_mode():
            parameters, _ = model(**batch["net_input"])
            log_p = logistic_mixture_log_prob(parameters, task.values(batch["target"]))
        bits.append(log_p.double().mean(1).cpu() / -math.log(2))
    each = torch.cat(bits)
    if len(each) != len(dataset):
        raise RuntimeError(f"{split} has {len(dataset)} images, but {len(each)} were scored")
    error = each.std().item() / math.sqrt(len(each)) if len(each) > 1 else float("nan")
    return {"split": split, "images": len(each), "bits_per_dim": round(each.mean().item(), 5), "standard_error": round(error, 5)}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, help="a trained model of images")
    add("data", type=Path, help="folder of the images")
    add("--out", type=output_file, required=True, help="JSON file to write")
    add("--splits", nargs="+", choices=["valid", "test"], default=["test"], help="(default: test)")
    add("--images", type=int, help="images of a split that are scored; 0: all (default: as the training's validations)")
    add("--batch-size", type=int, default=16, help="images at a time (default: 16)")
    add("--name", help="of the row (default: the checkpoint's folder)")
    add("--cpu", action="store_true", help="leave a GPU aside")
    add_user_dir(parser)
    options = parser.parse_args()
    for name, least in (("images", 0), ("batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    return options


def main() -> None:
    options = parse_arguments()
    logging.disable(logging.INFO)  # fairseq's own progress
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    data = {"data": str(options.data)}
    if options.images is not None:
        data["scored_images"] = options.images
    loaded = load_image_model(options.checkpoint, device, data)
    try:
        scores = [score(loaded.task, loaded.model, split, device, options.batch_size) for split in options.splits]
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    for found in scores:
        print("{split}: {bits_per_dim:.4f} bits/dim ± {standard_error:.4f}, {images} images".format(**found), flush=True)
    log = options.checkpoint.parent / "train.log"
    model, cfg = loaded.model, loaded.cfg
    write_json(
        options.out,
        {
            "name": options.name or options.checkpoint.resolve().parent.name,
            **run_record(sys.argv, options.user_dir),
            **hardware(device),
            "images": str(loaded.task.cfg.images),
            "lossy": any(loaded.task.dataset(split).lossy for split in options.splits),
            "model": {key: getattr(cfg.model, key) for key in MODEL_SETTINGS},
            "parameters": sum(p.numel() for p in model.parameters()),
            "batch_size": cfg.dataset.batch_size and cfg.dataset.batch_size * cfg.optimization.update_freq[0],
            "max_tokens": cfg.dataset.max_tokens,
            "lr": list(cfg.optimization.lr),
            **training_record(options.checkpoint),
            "seed": cfg.common.seed,
            "scores": scores,
            "seconds_per_update": seconds_per_update(log) if log.is_file() else None,
            "curve": read_curve(log) if log.is_file() else [],
        },
    )
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
