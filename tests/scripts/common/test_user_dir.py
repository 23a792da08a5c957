"""--user-dir of the scripts: what it imports, what it refuses, and who has it."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from common.run_record import plugin_record, run_record
from common.user_dir import add_user_dir

ROOT = Path(__file__).resolve().parents[3]
LOADERS = ("load_model_ensemble_and_task", "load_trained(", "load_image_model(")


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script")
    add_user_dir(parser)
    return parser.parse_args(list(map(str, words)))


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plug-in that does nothing, and its folder relative to where the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("a_plug_in").mkdir()
    Path("a_plug_in/__init__.py").touch()
    yield Path("a_plug_in")
    sys.modules.pop("a_plug_in", None)


def test_a_plug_in_is_imported_and_goes_into_results_by_its_name(plugin):
    options = parse("--user-dir", plugin)
    assert "a_plug_in" in sys.modules
    assert run_record(["script.py"], options.user_dir)["user_dir"] == "a_plug_in"


@pytest.mark.parametrize("words", [[], ["--user-dir", ROOT / "momentum_fairseq"]], ids=["none", "ours"])
def test_this_repository_s_own_is_not_noted(words):
    options = parse(*words)
    assert plugin_record(options.user_dir) == {}
    assert "user_dir" not in run_record(["script.py"], options.user_dir)


def test_a_plug_in_that_is_not_there_is_named(plugin, capsys):
    (plugin / "__init__.py").unlink()
    for folder, said in (("gone", "gone: no such folder"), (plugin, "a_plug_in: no __init__.py in it")):
        with pytest.raises(SystemExit):
            parse("--user-dir", folder)
        assert said in capsys.readouterr().err


def test_what_a_plug_in_raises_is_shown(plugin):
    (plugin / "__init__.py").write_text("raise ValueError('its own fault')\n")
    with pytest.raises(ValueError, match="its own fault"):
        parse("--user-dir", plugin)


def test_every_script_that_loads_a_trained_model_has_it():
    texts = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/*.py")}
    loading = {name for name, text in texts.items() if any(loader in text for loader in LOADERS)}
    assert {"evaluate.py", "decode_shards.py", "score_lra.py", "score_images.py", "generate_images.py"} <= loading
    assert [name for name in loading if "add_user_dir(parser)" not in texts[name]] == []
