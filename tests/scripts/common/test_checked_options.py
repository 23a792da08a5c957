"""Where a command line may write to is seen to before anything is computed."""

import errno
import importlib
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest
from common import checked_options
from common.checked_options import add_output_folder, output_file, output_folder


def forbid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who may not write there; the root user may everywhere."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))


@pytest.mark.parametrize("check", [output_file, output_folder])
def test_a_place_is_taken_whose_folders_can_be_made_and_nothing_is_made_yet(check, tmp_path, monkeypatch):
    assert check(str(tmp_path / "a" / "b.json")) == tmp_path / "a" / "b.json"
    monkeypatch.chdir(tmp_path)
    assert check("b.json") == Path("b.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", [output_file, output_folder])
def test_a_place_below_a_file_or_where_nothing_may_be_written_is_refused(check, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentTypeError, match="file is a file, not a folder"):
        check(str(tmp_path / "file" / "a" / "b.json"))
    forbid(tmp_path, monkeypatch)
    with pytest.raises(ArgumentTypeError, match="no permission to write in"):
        check(str(tmp_path / "a" / "b.json"))


@pytest.mark.parametrize("check", [output_file, output_folder])
def test_a_place_that_may_not_even_be_looked_for_is_refused(check, tmp_path, monkeypatch):
    stat = os.stat

    def look(path: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | Path) and tmp_path in Path(path).parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", look)
    forbid(tmp_path, monkeypatch)
    with pytest.raises(ArgumentTypeError, match="no permission to write in"):
        check(str(tmp_path / "a" / "b.json"))


def test_a_folder_or_a_device_is_no_file_to_write(tmp_path):
    with pytest.raises(ArgumentTypeError, match="is a folder; name a file"):
        output_file(str(tmp_path))
    assert output_folder(str(tmp_path)) == tmp_path
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArgumentTypeError, match="is a device or pipe, which would be replaced; name a file"):
        output_file(str(tmp_path / "pipe"))


def test_the_folder_that_is_not_named_is_seen_to_as_well(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checked_options, "ROOT", tmp_path)
    forbid(tmp_path, monkeypatch)
    parser = ArgumentParser()
    add_output_folder(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "no permission to write in" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["benchmark_decoding", "benchmark_loss_memory", "benchmark_training"])
def test_a_benchmark_measures_nothing_for_a_result_that_can_not_be_written(script, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2 and "is a folder; name a file" in capsys.readouterr().err
