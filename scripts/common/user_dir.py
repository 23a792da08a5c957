"""--user-dir of scripts, as fairseq's own commands have it: a plug-in beside this repository's."""

import argparse
from pathlib import Path
from typing import Any

from fairseq.utils import import_user_module

import momentum_fairseq


def add_user_dir(
    parser: argparse.ArgumentParser, note: str = "folder of a plug-in that the model needs beside momentum_fairseq"
) -> None:
    """Give the parser --user-dir, whose folder is imported at once; the option is None where there is none but ours."""
    parser.add_argument("--user-dir", type=Path, action=_Import, metavar="FOLDER", help=note)


class _Import(argparse.Action):  # not a `type`: argparse hides the errors of that
    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, folder: Any, option: Any = None) -> None:
        if not folder.is_dir():
            parser.error(f"{option} {folder}: no such folder")
        if not (folder / "__init__.py").is_file():
            parser.error(f"{option} {folder}: no __init__.py in it; name the folder of a plug-in")
        if folder.samefile(momentum_fairseq.__path__[0]):
            return
        import_user_module(argparse.Namespace(user_dir=str(folder)))
        options.user_dir = folder.absolute()
