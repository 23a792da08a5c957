"""Check that a checkpoint was trained for prepared data: in its direction and with its dictionaries.

python scripts/checkpoint_data.py CHECKPOINT PREPARED-FOLDER
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import run_record  # noqa: F401  (finds the package)
from fairseq import checkpoint_utils
from scoring import prepared_settings

import momentum_fairseq  # noqa: F401  (lets torch's safe loader read fairseq's checkpoints)


def check_data(checkpoint: Path, cfg: Any, data: Path) -> None:
    """End with a message where the data is of another direction, or has another dictionary, than what was trained on.

    Args:
        cfg: the checkpoint's; its task names no languages where fairseq-train was given none.
    """
    settings = prepared_settings(data)
    prepared = (settings["SOURCE_LANG"], settings["TARGET_LANG"])
    trained = (cfg.task.source_lang or prepared[0], cfg.task.target_lang or prepared[1])
    if prepared != trained:
        raise SystemExit(f"error: {checkpoint} translates {'-'.join(trained)}, but {data} is prepared for {'-'.join(prepared)}")
    for language in trained:
        own, other = (folder / f"dict.{language}.txt" for folder in (checkpoint.parent, data / "data-bin"))
        if own.is_file() and own.read_bytes() != other.read_bytes():
            raise SystemExit(
                f"error: {checkpoint}: was trained with another dictionary, {own}, than {other}; "
                f"prepare the data with the checkpoint's (SRCDICT, CODES)"
            )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="folder made by prepare_parallel.sh")
    options = parser.parse_args(arguments)
    logging.disable(logging.INFO)  # fairseq's own progress
    try:
        cfg = checkpoint_utils.load_checkpoint_to_cpu(str(options.checkpoint))["cfg"]
    except Exception as error:
        why = type(error).__name__
        raise SystemExit(f"error: {options.checkpoint}: not a checkpoint of fairseq that loads safely ({why})") from error
    check_data(options.checkpoint, cfg, options.data)


if __name__ == "__main__":
    main()
