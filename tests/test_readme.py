"""What the READMEs say is so: flags, defaults, presets, paths, and the numbers of their tables."""

import argparse
import re
import shlex
from pathlib import Path

import fill_readme
import pytest
import show_flags
import torch
from fairseq import options
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.registry import REGISTRIES

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("examples/*/*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in READMES}
EVERY = pytest.mark.parametrize("name", list(TEXTS))

# Flags of programs that are neither ours nor fairseq's.
OTHERS = {"--no-build-isolation", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--wrap", "--kill-on-bad-exit"}


def fairseq_flags() -> set[str]:
    """Those of fairseq's own parsers, and of every optimizer, schedule, criterion … that they can be asked for."""
    parsers = [options.get_training_parser(), options.get_generation_parser()]
    for registry in REGISTRIES.values():
        for part in registry["registry"].values():
            parsers.append(argparse.ArgumentParser(add_help=False, conflict_handler="resolve"))
            if hasattr(part, "add_args"):
                part.add_args(parsers[-1])
    return {flag for parser in parsers for flag in parser._option_string_actions}


def script_flags() -> set[str]:
    """Those that the scripts define, by their text: importing them all would take a minute."""
    return {flag for path in ROOT.glob("scripts/**/*.py") for flag in re.findall(r'"(--[a-z][\w-]*)"', path.read_text("utf-8"))}


def own_flags() -> dict[str, list]:
    """Flag → its defaults, one for each model, task or criterion that has it."""
    found: dict[str, list] = {}
    for config in show_flags.own_configs().values():
        for flag, default, _ in show_flags.flags(config):
            found.setdefault(flag, []).append(default)
    return found


KNOWN = fairseq_flags() | script_flags() | own_flags().keys() | OTHERS


@EVERY
def test_every_flag_that_is_named_exists(name):
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", TEXTS[name]))
    assert sorted(named - KNOWN) == []


def stated_defaults() -> dict[str, str]:
    """Flag → default as README's table has it, for lines that have one default for each of their flags."""
    stated = {}
    for flags, defaults in re.findall(r"^\| (`--[^|]*) \| ([^|]+) \|", TEXTS["README.md"], re.MULTILINE):
        names = re.findall(r"--[\w-]+", flags)
        values = [re.sub(r" \(.*", "", value.strip()) for value in re.split(r",(?![^(]*\))", defaults)]
        if len(values) == 1:
            values *= len(names)
        assert len(names) == len(values), f"{flags}: {defaults}"
        stated.update(zip(names, values, strict=True))
    return stated


def test_every_default_of_the_table_of_flags_is_the_one_that_the_code_has():
    code, generation = own_flags(), options.get_generation_parser()
    words = {"off": False, "none": None}
    for flag, value in stated_defaults().items():
        if value in ("the kind's", "the set's") or flag.startswith("--attention-") and None in code[flag]:
            assert set(code[flag]) == {None}, flag
            continue
        stated = words.get(value, value)
        defaults = code.get(flag) or [generation.get_default(flag.removeprefix("--").replace("-", "_"))]
        assert any(stated == found or str(found) == value or same_number(found, value) for found in defaults), (flag, defaults)


def same_number(found: object, value: str) -> bool:
    return isinstance(found, int | float) and re.fullmatch(r"[\d.e-]+", value) is not None and float(value) == found


def test_sizes_that_a_kind_has_by_itself_are_those_of_its_help():
    flags = {flag: text for config in show_flags.own_configs().values() for flag, _, text in show_flags.flags(config)}
    for flag, value in stated_defaults().items():
        if flag.startswith("--attention-") and "default: " in flags[flag] and value.isdigit():
            assert re.search(rf"\b{value}\b", flags[flag].split("default: ")[1]), flag


@EVERY
def test_every_preset_that_is_named_is_registered(name):
    named = set(re.findall(r"\b(?:momentum_(?:nat|transformer|lm)|lra_classifier)(?:_[a-z0-9]+)*\b", TEXTS[name]))
    assert sorted(named - set(ARCH_MODEL_REGISTRY)) == []


def commands(text: str) -> list[str]:
    """The lines of indented blocks, continued ones joined, comments left out."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [re.sub(r"\s+# .*", "", line.strip()) for line in joined.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("tool", ["train", "generate"])
def test_fairseq_takes_the_commands_as_they_stand(tool):
    words = [shlex.split(line)[1:] for line in commands(TEXTS["README.md"]) if line.startswith(f"fairseq-{tool} ")]
    assert len(words) == 2
    for line in words:
        at = line.index("--user-dir")
        assert (ROOT / line[at + 1] / "__init__.py").is_file()
        del line[at : at + 2]  # imported above
        parser = options.get_training_parser() if tool == "train" else options.get_generation_parser()
        options.parse_args_and_arch(parser, line)


@EVERY
def test_every_variable_of_a_command_is_one_of_its_script(name):
    for line in commands(TEXTS[name]):
        if found := re.match(r"(?:python3? |((?:\w+=(?:'[^']*'|\"[^\"]*\"|\S+) )+)bash )(\S+)", line):
            script = ROOT / found[2]
            assert script.is_file(), line
            text = script.read_text("utf-8") + (ROOT / "scripts/run_row.sh").read_text("utf-8")
            assert [v for v in re.findall(r"(\w+)=", found[1] or "") if not re.search(rf"\b{v}\b", text)] == [], line


def test_the_lines_of_python_run():
    block = TEXTS["README.md"].split("### From Python")[1].split("On a GPU")[0]
    lines = "\n".join(line.strip() for line in block.splitlines() if line.startswith("    "))
    q, k, v = torch.rand(3, 1, 2, 6, 4)
    names = {"q": q, "k": k, "v": v, "mask": torch.tensor([[False] * 5 + [True]]), "cu": torch.tensor([0, 2, 6])}
    exec(lines, {**names, **{f"{name}_t": names[name][:, :, 0] for name in "qkv"}})


def test_what_the_quickstart_shows_stands_in_its_log():
    log = re.search(r"\((examples/quickstart/[^)]+)\)", TEXTS["README.md"])[1]
    shown = TEXTS["README.md"].split(log)[1].split("\n\nAfter ")[0].splitlines()[1:]
    lines = {line.strip() for line in (ROOT / log).read_text("utf-8").splitlines()}
    assert len(shown) > 10 and [line for line in shown if line.strip() and line.strip() not in lines] == []


def test_every_preset_is_named():
    ours = {name for name, model in ARCH_MODEL_REGISTRY.items() if model.__module__.startswith("momentum_fairseq.")}
    assert sorted(name for name in ours if f"`{name}`" not in TEXTS["README.md"]) == []


def test_every_script_that_a_user_calls_is_named():
    """Those with a usage line; the others are parts of these."""
    called = [path.name for path in ROOT.glob("scripts/*.sh") if f"bash scripts/{path.name}" in path.read_text("utf-8")]
    called += [path.name for path in ROOT.glob("scripts/benchmark_*.py")]
    assert called
    assert sorted(script for script in called if f"{script}" not in TEXTS["README.md"]) == []


@EVERY
def test_every_path_that_is_named_exists(name):
    """Links, and whatever begins with a folder of the repository; those in a README of `examples` may be relative to it."""
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("runs", "data"))
    named = set(re.findall(rf"(?<![\w/.-])((?:{folders}|results)/[\w./*-]+)", TEXTS[name]))
    links = set(re.findall(r"\]\(([^)#:]+)\)", TEXTS[name]))
    here = (ROOT / name).parent
    missing = [path for path in named | links if not any(list(base.glob(path.rstrip("./"))) for base in (ROOT, here))]
    assert sorted(path for path in missing if not (here / path).exists()) == []


@EVERY
def test_lines_are_short_enough_to_read_but_for_tables(name):
    assert [line for line in TEXTS[name].splitlines() if len(line) > 130 and not line.startswith("|")] == []


@EVERY
def test_every_table_that_is_filled_in_is_that_of_its_results(name):
    """Otherwise: python scripts/fill_readme.py examples/*/README.md."""
    assert fill_readme.fill(TEXTS[name], (ROOT / name).parent) == TEXTS[name]


def rows_of_results() -> list[tuple[str, str]]:
    """Folder of `examples` and cells with measured numbers, for each line of README's result tables that is of ours.

    A line without a link is of the folder of the line before it.
    """
    results, rows, folder = TEXTS["README.md"].split("## Results")[1].split("## Flags")[0], [], None
    for line in re.findall(r"^\| .*$", results, re.MULTILINE):
        cells = line.strip("| ").split(" | ")
        link = re.search(r"\((examples/\w+)\)", cells[0])
        folder = link[1] if link else folder
        if folder and "Nguyen" not in cells[0] and not cells[0].startswith(("-", "subject")):
            rows.append((folder, cells[1] if len(cells) == 3 else " ".join(cells[1:])))
    return rows


def test_every_figure_of_the_results_stands_in_the_folder_that_they_link_to():
    rows = rows_of_results()
    assert len(rows) > 10
    for folder, cells in rows:
        figures = re.findall(r"\b\d+\.\d{2,3}\b", re.sub(r"\(paper[^)]*\)", "", cells))
        missing = [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}", TEXTS[f"{folder}/README.md"])]
        assert missing == [], (folder, cells)
