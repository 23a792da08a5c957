"""Print how many updates a training has had, by its last checkpoint: 0 where there is none yet.

python scripts/updates_trained.py CHECKPOINT-FOLDER
"""

import argparse
from pathlib import Path

from common.checkpoint_file import load_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where fairseq-train saves")
    last = parser.parse_args().folder / "checkpoint_last.pt"
    history = load_checkpoint(last, "cfg")["optimizer_history"] if last.is_file() else []
    print(history[-1]["num_updates"] if history else 0)


if __name__ == "__main__":
    main()
