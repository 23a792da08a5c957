"""Check that a checkpoint was trained for prepared data: in its direction and with its dictionaries.

python scripts/checkpoint_data.py CHECKPOINT PREPARED-FOLDER
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from common.scoring import prepared_settings
from fairseq import checkpoint_utils

import momentum_fairseq  # noqa: F401  (lets torch's safe loader read fairseq's checkpoints)


def check_data(checkpoint: Path, cfg: Any, data: Path) -> None:
    """End with a message where a prepared folder is of another direction, or has another dictionary, than what was trained on."""
    settings = prepared_settings(data)
    check_binarised(checkpoint, cfg.task, data / "data-bin", (settings["SOURCE_LANG"], settings["TARGET_LANG"]))


def check_binarised(checkpoint: Path, task: Any, data: Path, languages: tuple[str, str]) -> None:
    """The same of a data-bin. Dictionaries are compared with those beside the checkpoint, or else where it was trained.

    Args:
        task: the checkpoint's configuration of it; names no languages where fairseq-train was given none.
        languages: of the data, source and target.
    """
    trained = (task.source_lang or languages[0], task.target_lang or languages[1])
    if trained != languages:
        own, other = "-".join(trained), "-".join(languages)
        raise SystemExit(f"error: {checkpoint} translates {own}, but {data.parent} is prepared for {other}")
    for language in languages:
        name = f"dict.{language}.txt"
        known = [folder / name for folder in (checkpoint.parent, Path(task.data)) if (folder / name).is_file()]
        if not known:
            print(f"warning: no {name} beside {checkpoint}: whether it is that of {data}, only its size tells", flush=True)
        elif known[0].read_bytes() != (data / name).read_bytes():
            raise SystemExit(
                f"error: {checkpoint}: was trained with another dictionary, {known[0]}, than {data / name}; "
                f"prepare the data with the checkpoint's (SRCDICT, CODES), or train another"
            )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a trained model")
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
