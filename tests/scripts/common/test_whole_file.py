"""Files are written whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest
from common.whole_file import whole_file, write_json, write_text


def test_what_was_there_stays_until_the_new_content_is_whole(tmp_path):
    path = tmp_path / "new folder" / "table.md"
    write_text(path, "old")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(failure, tmp_path):
    path = tmp_path / "table.md"
    path.write_text("old")
    with pytest.raises(type(failure)), whole_file(path) as part:
        part.write_text("half")
        raise failure
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fails_when_the_content_is_to_reach_it_leaves_what_was_there(tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "table.md"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_that_write_a_file_at_once_under_endings_of_their_own_leave_one_of_the_two_contents(tmp_path):
    path = tmp_path / "shard"
    with whole_file(path, ".part.1") as first:
        first.write_text("first")
        with whole_file(path, ".part.2") as second:
            second.write_text("second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_json_makes_its_folder_and_writes_paths_as_text(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"é": Path("x"), "n": [1]})
    assert (tmp_path / "a" / "b.json").read_text(encoding="utf-8") == '{\n "é": "x",\n "n": [\n  1\n ]\n}\n'
    assert json.loads((tmp_path / "a" / "b.json").read_text(encoding="utf-8"))["é"] == "x"
