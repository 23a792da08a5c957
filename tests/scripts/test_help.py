"""Every script that a user calls says what it takes, and does nothing else when asked to; what it says is so."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALL = [path for pattern in ("scripts/*.sh", "examples/*/*.sh") for path in sorted(ROOT.glob(pattern))]
CALLED = [path for path in ALL if path.read_text("utf-8").startswith("#!")]  # the others are sourced
# Not the script's own to explain: what other programs set and read.
FOREIGN = {"OMP_NUM_THREADS", "PYTHONPATH", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
PROSE = {"all", "both", "the three kinds"}  # of a default that is a list


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("script", CALLED, ids=name)
def test_help_is_the_comment_at_the_top_of_the_script_and_nothing_is_done(script, tmp_path):
    command = {"args": ["bash", script, "--help"], "cwd": tmp_path, "env": {"PATH": "/usr/bin:/bin"}}
    result = subprocess.run(**command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.splitlines() == header(script)
    assert f"bash {name(script)}" in result.stdout
    assert list(tmp_path.iterdir()) == []


def header(script: Path) -> list[str]:
    """The comment at the top."""
    lines = script.read_text("utf-8").split("\nsource")[0].splitlines()[1:]
    return [line.removeprefix("#").removeprefix(" ") for line in lines if line.startswith("#")]


def own_body(script: Path) -> str:
    """All but the comment at the top."""
    return script.read_text("utf-8").split("\nsource", 1)[-1]


def whole_body(script: Path) -> str:
    """What the script does, with what all scripts do that it sources or calls."""
    todo, texts = [script], {}
    while todo:
        place = todo.pop()
        texts[place] = own_body(place)
        # The examples' scripts have equal names: only those of the same folder are meant.
        near = (path for path in ALL if path.parent in (place.parent, ROOT / "scripts") and path not in texts)
        todo += [path for path in near if f"/{path.name}" in texts[place]]
    return "".join(texts.values())


@pytest.mark.parametrize("script", CALLED, ids=name)
def test_every_variable_with_a_default_is_in_the_header(script):
    read = set(re.findall(r"\$\{([A-Z][A-Z0-9_]*):?-", own_body(script))) - FOREIGN
    said = "\n".join(header(script))
    missing = {variable for variable in read if not re.search(rf"\b{variable}\b", said)}
    missing = {variable for variable in missing if not variable.startswith(("SLURM_", *re.findall(r"\b([A-Z]+_)…", said)))}
    assert missing == set()


@pytest.mark.parametrize("script", CALLED, ids=name)
def test_every_variable_that_the_header_lists_is_read(script):
    listed = [re.match(r"[A-Z][A-Z0-9_]+((, | \(\d\), )[A-Z][A-Z0-9_]+)*(?=,? )", line) for line in header(script)]
    variables = {variable for found in listed if found for variable in re.findall(r"[A-Z][A-Z0-9_]+", found[0])}
    read = set(re.findall(r"\$\{?!?([A-Z][A-Z0-9_]*)", whole_body(script)))
    assert variables - read == {"GPU"} & variables  # a word that begins a line of prose


def test_every_script_is_here():
    assert len(CALLED) > 15 and ROOT / "scripts/quickstart.sh" in CALLED


def arguments() -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Each argument that a Python script defines, and the keywords that it is defined with."""
    for script in sorted(ROOT.glob("scripts/*.py")):
        for call in ast.walk(ast.parse(script.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] in ("add", "add_argument"):
                keywords = {keyword.arg: keyword.value for keyword in call.keywords}
                if keywords or ast.unparse(call.func).endswith("add_argument"):
                    yield f"{script.name} {ast.unparse(call.args[0])}", keywords


def test_every_argument_of_a_python_script_says_what_it_is():
    assert [place for place, keywords in arguments() if "help" not in keywords] == []
    assert len(list(arguments())) > 200


def test_the_default_that_an_argument_tells_is_the_one_that_it_has():
    wrong = []
    for place, keywords in arguments():
        told = re.search(r"\((?:default: )?([^()]*)\)$", ast.literal_eval(keywords["help"]) if is_text(keywords["help"]) else "")
        if told is None or "default" not in keywords or told[1].partition(",")[0] in PROSE:
            continue
        try:
            default = ast.literal_eval(keywords["default"])
        except ValueError:  # computed
            continue
        numbers = default if isinstance(default, list) else [default]
        shown = " ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in numbers)
        if told[1] != "%(default)s" and told[1].partition(",")[0] != shown:
            wrong.append((place, told[1], shown))
    assert wrong == []


def is_text(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Constant)
