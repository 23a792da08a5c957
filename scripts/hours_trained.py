"""Print the hours that a training has taken so far, and some minutes: what --stop-time-hours wants for as many minutes more.

python scripts/hours_trained.py CHECKPOINT-FOLDER --and-minutes 7
"""

import argparse
from pathlib import Path

from common.checkpoint_file import load_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where train.sh writes; nothing there yet is no time")
    parser.add_argument("--and-minutes", type=float, default=0.0, help="to add (0)")
    options = parser.parse_args()
    last = options.folder / "checkpoint_last.pt"
    seconds = 0.0
    if last.is_file():
        seconds = load_checkpoint(last, "extra_state")["extra_state"].get("previous_training_time", 0.0)
    print(f"{seconds / 3600 + options.and_minutes / 60:.6f}")


if __name__ == "__main__":
    main()
