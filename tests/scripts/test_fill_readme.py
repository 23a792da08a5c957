"""fill_readme.py on Markdown and results made up for the purpose."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import fill_readme
import pytest
from fill_readme import fill, table

from tests.scripts.commands import run

SCRIPT = "scripts/fill_readme.py"
TRAINING = {
    "command": "python scripts/benchmark_training.py --runs 2",
    "date": "2026-11-22",
    "git_revision": "0123456789ab",
    **{"device": "A processor, 2 cores", "threads": 2, "torch": "2.13.0"},
    **{"embed_dim": 8, "ffn_dim": 16, "layers": 1, "heads": 2, "vocabulary": 3136},
    "rows": [
        {
            "row": "momentum",
            "parameters": 2_960_000,
            "target_tokens_per_second": 1234.5,
            "speed_ratio": 1.026,
            "seconds_of_each_turn": [0.512, 0.444],
        }
    ],
}
TABLES = "| bleu valid | 1 |\n| --- | --- |\n| softmax | 9.00 |\n\n| bleu test | 1 |\n| --- | --- |\n| softmax | 11.54 |\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A README with two blocks of old text, and the results for them."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results/training.json").write_text(json.dumps(TRAINING))
    (tmp_path / "results/table.md").write_text(TABLES)
    blocks = ["<!-- results/training.json -->\nold\n<!-- end -->", "<!-- results/table.md: bleu test -->\n<!-- end -->"]
    (tmp_path / "README.md").write_text("\n\n".join(["Before.", blocks[0], "Between.", blocks[1], "After.\n"]))
    return tmp_path


def test_tables_are_written_between_their_comments_and_the_text_stays(folder):
    result = run(SCRIPT, folder / "README.md")
    assert result.returncode == 0, result.stderr
    assert (folder / "README.md").read_text() == """Before.

<!-- results/training.json -->
    python scripts/benchmark_training.py --runs 2

| 8/16/1/2, 3,136 words | parameters | target tokens/s | × fairseq's | seconds of an update |
| --- | --- | --- | --- | --- |
| momentum | 3.0 M | 1,234 | 1.03 | 0.44–0.51 |

2026-11-22, A processor, 2 cores, 2 threads, torch 2.13.0, revision 0123456789ab.
<!-- end -->

Between.

<!-- results/table.md: bleu test -->
| bleu test | 1 |
| --- | --- |
| softmax | 11.54 |
<!-- end -->

After.
"""


def test_a_table_is_named_by_the_beginning_of_its_heading():
    assert table("| bleu valid, less bleu test | 1 |\n| --- | --- |\n\n" + TABLES, "bleu test").startswith("| bleu test | 1 |")


def test_a_readme_that_cannot_be_written_stays_as_it_was(folder, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = (folder / "README.md").read_text()
    monkeypatch.setattr(sys, "argv", ["fill_readme.py", str(folder / "README.md")])
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        fill_readme.main()
    assert (folder / "README.md").read_text() == before


def test_a_second_run_changes_nothing(folder):
    run(SCRIPT, folder / "README.md")
    before = (folder / "README.md").stat().st_mtime_ns
    assert "as it was" in run(SCRIPT, folder / "README.md").stdout
    assert (folder / "README.md").stat().st_mtime_ns == before


def entry(name: str, **change: Any) -> Any:
    return lambda folder: (folder / name).write_text(json.dumps({**TRAINING, **change}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "results/training.json").unlink(), "training.json: FileNotFoundError"),
        (lambda folder: (folder / "results/training.json").write_text("{"), "training.json: JSONDecodeError"),
        (entry("results/training.json", command="python other.py"), "`command` names none of benchmark_attention.py"),
        (entry("results/training.json", rows=[{}]), "training.json: KeyError: 'target_tokens_per_second'"),
        (lambda folder: (folder / "results/table.md").write_text("none"), "no table whose heading begins with 'bleu test'"),
    ],
)
def test_results_that_are_missing_or_others_are_refused_by_name_and_nothing_is_written(folder, spoil, message):
    spoil(folder)
    before = (folder / "README.md").read_text()
    result = run(SCRIPT, folder / "README.md")
    assert result.returncode == 1
    assert f"fill_readme.py: error: {folder / 'README.md'}: " in result.stderr and message in result.stderr
    assert (folder / "README.md").read_text() == before


@pytest.mark.parametrize("text", ["<!-- a.json -->\n", "<!-- end -->", "<!-- a.md -->\n<!-- results/table.md -->\n<!-- end -->"])
def test_comments_that_do_not_pair_are_refused(folder, text):
    with pytest.raises(ValueError, match="without `<!-- end -->`"):
        fill(text, folder)
