"""distill.sh from the teacher to the student on a tiny corpus: what a kill leaves, what a second run does, what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from decode_shards import Teacher

from tests.scripts.commands import held, run
from tests.scripts.parallel_corpus import checksums
from tests.scripts.refusals import assert_says

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

TEACHER = {"TEACHER_ARCH": "momentum_transformer_tiny", "TEACHER_MAX_UPDATE": 40, "TEACHER_VALIDATE_EVERY": 40}
SCHEDULE = {"TEACHER_MAX_TOKENS": 400, "TEACHER_WARMUP": 10, "TEACHER_LR": 3e-3}
STUDENT = {"ARCH": "momentum_nat_tiny", "MAX_UPDATE": 2, "VALIDATE_EVERY": 2}
SENTENCES = 200
Distill = Callable[..., subprocess.CompletedProcess]


def command(out: Path, data: Path, **variables: object) -> dict:
    """distill.sh as subprocess takes it."""
    teacher = {**TEACHER, **SCHEDULE, "TEACHER_FLAGS": "--attention softmax --eval-bleu-detok space"}
    places = {"DATA": data, "OUT": out, "MOMENTUM_ENV": sys.prefix, "OMP_NUM_THREADS": 1, "DEVICE": "cpu"}
    values = {**places, **teacher, **STUDENT, "SHARDS": 4, **variables}
    environment = {**os.environ, **{name: str(value) for name, value in values.items()}}
    return {"args": ["bash", str(ROOT / "scripts/distill.sh"), "--eval-bleu-detok=space"], "env": environment, "cwd": "/"}


def distill(out: Path, data: Path, **variables: object) -> subprocess.CompletedProcess:
    return subprocess.run(**command(out, data, **variables), capture_output=True, text=True)


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as prepare_parallel.sh leaves one."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(corpus / "bin", folder / "data-bin", ignore=shutil.ignore_patterns("preprocess.log"))
    (folder / "bpe").mkdir()
    for split in ("train", "valid", "test"):
        for language in ("src", "tgt"):
            shutil.copyfile(corpus / f"{split}.{language}", folder / "bpe" / f"{split}.{language}")
            if split != "train":
                shutil.copyfile(corpus / f"{split}.{language}", folder / f"ref.{split}.{language}")
    (folder / "codes").write_text("")
    train = {"lines_in": SENTENCES, "lines_out": SENTENCES, "dropped": {"empty": 0}}
    (folder / "report.json").write_text(json.dumps({"train": train, "valid": {}, "test": {}}))
    settings = ["SOURCE_LANG=src", "TARGET_LANG=tgt", "JOINED_DICTIONARY=0", "LOWERCASE=0", "TOKENIZED=1"]
    (folder / "settings.txt").write_text("\n".join(settings) + "\n")
    return folder


@pytest.fixture(scope="module")
def distilled(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run of all four stages."""
    out = tmp_path_factory.mktemp("distilled")
    result = distill(out, prepared)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    return out


def test_one_command_goes_from_prepared_data_to_a_student(distilled):
    for model, updates in (("teacher", 40), ("student", 2)):
        state = torch.load(distilled / model / "checkpoint_best.pt", weights_only=True)
        assert state["optimizer_history"][-1]["num_updates"] == updates


def test_the_distilled_folder_is_prepared_with_the_same_dictionaries_and_test_sets(distilled, prepared):
    ours, theirs = checksums(distilled / "data"), checksums(prepared)
    differing = {name for name in theirs if ours.get(name) != theirs[name]}
    assert ours.keys() == theirs.keys()
    train = {"data-bin/train.src-tgt.tgt.bin", "data-bin/train.src-tgt.tgt.idx", "bpe/train.tgt"}
    assert differing == {*train, "report.json", "settings.txt"}


def test_each_sentence_has_the_teachers_translation_by_beam_search(distilled, prepared, tmp_path):
    """The same as generate.sh's with decode_shards.py's limits, which has each sentence in a batch of its own."""
    places = {"DATA": prepared, "CHECKPOINT": distilled / "teacher" / "checkpoint_best.pt", "OUT": tmp_path}
    flags = ("--batch-size=1", "--max-len-a=2", "--max-len-b=10")
    result = run("scripts/generate.sh", *flags, **places, TASK="translation", SUBSET="train")
    assert result.returncode == 0, result.stderr
    expected = (tmp_path / "train.hyp").read_text().split("\n")[:-1]
    assert len(expected) == SENTENCES
    assert (distilled / "data" / "bpe" / "train.tgt").read_text().split("\n")[:-1] == expected
    assert len(set(expected)) > SENTENCES / 20


def test_a_second_run_redoes_nothing(distilled, prepared):
    parts = [distilled / name for name in ("teacher", "shards", "data")]
    before = [checksums(part) for part in parts]
    result = distill(distilled, prepared, STUDENT=0)
    assert result.returncode == 0, result.stderr
    assert "(1 of 4)" not in result.stdout
    assert "(2 of 4)" not in result.stdout
    assert [checksums(part) for part in parts] == before


def test_a_run_killed_while_it_translates_goes_on_and_a_truncated_shard_is_decoded_again(distilled, prepared, tmp_path):
    """Two workers; both end with the run, and the result is that of an undisturbed run with one."""
    teacher = {"TEACHER": distilled / "teacher" / "checkpoint_best.pt", "STUDENT": 0, "WORKERS": 2}
    first = tmp_path / "shards" / "0000-of-0004.txt"
    with subprocess.Popen(**command(tmp_path, prepared, **teacher), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 100
        while not first.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    subprocess.run(["flock", "--wait", "10", tmp_path / ".lock", "true"], check=True)  # free when the last worker has ended
    assert not (tmp_path / "data").exists()
    first.write_bytes(first.read_bytes()[:-5])
    result = distill(tmp_path, prepared, **teacher)
    assert result.returncode == 0, result.stderr
    assert "0000-of-0004.txt" in result.stdout
    assert checksums(tmp_path / "data") == checksums(distilled / "data")


def assert_refused(out: Path, data: Path, *words: str, **variables: object) -> None:
    assert_says(distill(out, data, **variables), *words)
    assert not (out / "data").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TEACHER", "none.pt", "TEACHER=none.pt: no such file"),
        ("BEAM", "0", "BEAM=0: must be a whole number, at least 1"),
        ("SHARDS", "some", "SHARDS=some: must be a whole number"),
        ("WORKERS", "-1", "WORKERS=-1: must be a whole number"),
        ("LENPEN", "long", "LENPEN=long: must be a number"),
        ("STUDENT", "no", "STUDENT=no: must be 0 or 1"),
        ("DATA", "", "DATA is not set"),
        ("DATA", "/nowhere", "DATA=/nowhere: not a whole folder of prepare_parallel.sh"),
    ],
)
def test_a_bad_setting_is_refused_by_name_and_value(prepared, tmp_path, name, value, message):
    assert_refused(tmp_path, prepared, message, **{name: value})


def test_other_settings_on_a_begun_folder_are_refused_with_the_difference(distilled, prepared):
    result = distill(distilled, prepared, BEAM=5)
    assert result.returncode != 0
    assert "was begun with other settings" in result.stderr
    assert "< BEAM=4\n> BEAM=5" in result.stderr


def test_distilled_data_is_not_distilled_again(distilled, tmp_path):
    assert_refused(tmp_path, distilled / "data", "is distilled already")


def test_a_folder_in_use_is_refused(prepared, tmp_path):
    with held(tmp_path / ".lock"):
        assert_refused(tmp_path, prepared, "another run is distilling there")


@pytest.fixture
def load(prepared: Path) -> Callable[..., Teacher]:
    """scripts/decode_shards.py's Teacher, on a CPU."""

    def load(checkpoint: Path, languages: tuple[str, str] = ("src", "tgt")) -> Teacher:
        return Teacher(checkpoint, prepared / "data-bin", languages, torch.device("cpu"), beam=4, lenpen=1.0)

    return load


@pytest.fixture
def teacher(distilled: Path, tmp_path: Path) -> Path:
    """A copy of the teacher with its dictionaries, to spoil."""
    for path in (distilled / "teacher").glob("dict.*.txt"):
        shutil.copyfile(path, tmp_path / path.name)
    return Path(shutil.copyfile(distilled / "teacher" / "checkpoint_best.pt", tmp_path / "teacher.pt"))


def test_a_teacher_of_another_dictionary_is_refused_though_it_is_of_the_same_size(load, teacher):
    path = teacher.parent / "dict.tgt.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    with pytest.raises(SystemExit, match=r"was trained with another dictionary, .*dict\.tgt\.txt, than"):
        load(teacher)


def test_a_teacher_of_a_dictionary_of_another_size_is_refused_without_its_dictionary_at_hand(load, teacher):
    state = torch.load(teacher, weights_only=True)
    state["cfg"]["task"]["data"] = "/nowhere"
    (embedding, *_) = [name for name, value in state["model"].items() if "embed" in name and value.shape[-1:] == (64,)]
    state["model"][embedding] = torch.zeros(99, 64)
    torch.save(state, teacher)
    for path in teacher.parent.glob("dict.*.txt"):
        path.unlink()
    with pytest.raises(Exception, match="teacher.pt: was trained with another dictionary than .*size mismatch"):
        load(teacher)


def test_a_truncated_teacher_is_refused(load, teacher):
    teacher.write_bytes(teacher.read_bytes()[:5000])
    with pytest.raises(Exception, match="teacher.pt: not a whole checkpoint of fairseq"):
        load(teacher)


def test_a_teacher_of_other_languages_is_refused(load, teacher):
    with pytest.raises(SystemExit, match="translates src-tgt, but .* is prepared for tgt-src"):
        load(teacher, ("tgt", "src"))


def test_a_non_autoregressive_model_is_no_teacher(load, distilled):
    with pytest.raises(Exception, match="a model of the task translation_nat; a teacher decodes by beam search"):
        load(distilled / "student" / "checkpoint_best.pt")
