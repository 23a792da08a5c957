"""Print the hours that a training has taken so far, and some minutes: what --stop-time-hours wants for as many minutes more.

python scripts/hours_trained.py CHECKPOINT-FOLDER --and-minutes 7
"""

import argparse
from pathlib import Path
from pickle import UnpicklingError

import run_record  # noqa: F401  (finds the package)
import torch

import momentum_fairseq  # noqa: F401  (safe loading)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where train.sh writes; nothing there yet is no time")
    parser.add_argument("--and-minutes", type=float, default=0.0)
    options = parser.parse_args()
    last = options.folder / "checkpoint_last.pt"
    seconds = 0.0
    if last.is_file():
        try:
            state = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
            seconds = state["extra_state"]["previous_training_time"]
        except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise SystemExit(f"error: {last}: not a checkpoint of fairseq that loads safely ({type(error).__name__})") from error
    print(f"{seconds / 3600 + options.and_minutes / 60:.6f}")


if __name__ == "__main__":
    main()
