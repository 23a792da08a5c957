"""What the examples' gpu.sh share: jobs side by side before a deadline, stages that fail alone, an environment, an archive."""

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SESSION = """
source "$ROOT_FOLDER/scripts/common.sh"
source "$ROOT_FOLDER/scripts/gpu_session.sh"
job() {
    echo "job $1"
    touch "$HERE/at-work-$1"
    sleep 0.3
    find "$HERE" -name 'at-work-*' | wc -l >"$HERE/seen-$1"
    rm "$HERE/at-work-$1"
    [[ $1 != 3 ]]
}
"""


def session(here: Path, script: str, **variables: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ROOT_FOLDER": str(ROOT), "HERE": str(here), **{k: str(v) for k, v in variables.items()}}
    return subprocess.run(["bash", "-c", SESSION + script], capture_output=True, text=True, env=environment)


def test_jobs_run_side_by_side_and_failures_are_named(tmp_path):
    result = session(tmp_path, 'side_by_side "$HERE/logs" job 10 "1 a" "2 b" "3 c" "4 d"', SIDE_BY_SIDE=2)
    assert result.returncode == 0
    assert result.stdout == f"job: 1 failed (3 c); see the logs in {tmp_path}/logs\n"
    assert (tmp_path / "logs" / "4-d.log").read_text() == "job 4\n"
    seen = [int((tmp_path / f"seen-{i}").read_text()) for i in (1, 2, 3, 4)]
    assert max(seen) == 2


def test_a_job_that_failed_comes_last_until_it_succeeds(tmp_path):
    script = """
    job() { echo "$1" >>"$HERE/order"; [[ -f $HERE/mended || $1 == 3 ]]; }
    call() { side_by_side "$HERE/logs" job 10 1 "2 b" 3 4; }
    call; (SECONDS=60; call); touch "$HERE/mended"; call; call
    """
    result = session(tmp_path, script, SIDE_BY_SIDE=1, CALL_MINUTES=1)
    failed, left = f"job: 3 failed (1, 2 b, 4); see the logs in {tmp_path}/logs", "job: no time for 4 of 4; call again"
    assert result.stdout.splitlines() == [failed, left], result.stderr
    assert (tmp_path / "order").read_text().split() == [*"1234", *"3124", *"1234"]


def test_a_job_that_the_end_of_the_call_stopped_keeps_its_place(tmp_path):
    script = """
    job() { echo "$1" >>"$HERE/order"; [[ $1 != 1 || -f $HERE/later ]] || before_deadline sleep 60; }
    call() { side_by_side "$HERE/logs" job 0 1 2; }
    (SECONDS=$((deadline - 6)); call); touch "$HERE/later"; call
    """
    result = session(tmp_path, script, SIDE_BY_SIDE=1, CALL_MINUTES=1)
    assert result.stdout == f"job: 1 failed (1); see the logs in {tmp_path}/logs\n", result.stderr
    assert (tmp_path / "order").read_text().split() == [*"12", *"12"]


def test_jobs_that_the_call_has_no_time_for_are_left(tmp_path):
    result = session(tmp_path, 'side_by_side "$HERE/logs" job 61 1 2', CALL_MINUTES=1)
    assert result.stdout == "job: no time for 2 of 2; call again\n"
    assert not list(tmp_path.glob("seen-*"))


def test_what_a_job_starts_ends_before_the_call(tmp_path):
    result = session(tmp_path, "SECONDS=54; before_deadline bash -c 'sleep 30; echo late' || echo ended", CALL_MINUTES=1)
    assert result.stdout == "ended\n"


def test_what_does_not_end_when_asked_to_is_killed_before_the_calls_limit(tmp_path):
    stubborn = "SECONDS=54; before_deadline bash -c 'trap \"\" TERM; sleep 8; echo late' || echo killed"
    result = session(tmp_path, stubborn, CALL_MINUTES=1)
    assert result.stdout == "killed\n"


def test_a_training_gets_the_minutes_that_leave_three_for_its_scores(tmp_path):
    standing = "unset SECONDS; SECONDS=60 deadline=540; "  # it no longer counts
    result = session(tmp_path, standing + "minutes_to_train; MAX_MINUTES=1.5; minutes_to_train")
    left, given = map(float, result.stdout.split())
    assert (left, given) == (5.0, 1.5)


STAGES = """
OUT=out
first() { echo first; }
second() { echo second; false; echo "went on"; }
third() { echo third; die "third: nothing there"; }
fourth() { echo fourth; }
run_stages first second third fourth
"""


def test_a_stage_that_fails_ends_there_and_the_others_are_run(tmp_path):
    result = session(tmp_path, STAGES, STAGES="first second third fourth")
    assert result.stdout.split() == ["first", "second", "third", "fourth"]
    assert "error: third: nothing there" in result.stderr
    assert result.returncode == 1 and "second third: failed (see above); what succeeded is in out" in result.stderr


def test_a_stage_that_there_is_not_is_refused_before_any_is_run(tmp_path):
    result = session(tmp_path, STAGES, STAGES="first fith")
    assert (result.returncode, result.stdout) == (1, "")
    assert "STAGES: no stage fith; there are first second third fourth" in result.stderr


def test_a_carried_archive_is_unpacked_once(tmp_path):
    (tmp_path / "made" / "prepared").mkdir(parents=True)
    (tmp_path / "made" / "prepared" / "codes").write_text("x")
    with tarfile.open(tmp_path / "prepared.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made" / "prepared", "prepared")
    twice = 'for _ in 1 2; do unpack_carried "$HERE/prepared"; cat "$HERE/prepared/codes"; echo y >"$HERE/prepared/codes"; done'
    result = session(tmp_path, twice + '; unpack_carried "$HERE/none"')
    assert (result.returncode, result.stdout) == (0, "xy\n"), result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "prepared", "prepared.tar.gz"]


def test_results_come_back_in_one_archive(tmp_path):
    results = tmp_path / "results" / "rows"
    results.mkdir(parents=True)
    for name in ("a.json", "b.log", "c.pt", "d.png", "e.md", "f.txt", "json"):
        (results / name).write_text("x")
    session(tmp_path, 'pack "$HERE/results.tar.gz" "$HERE/results"')
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        assert archive.getnames() == ["./rows/a.json", "./rows/b.log", "./rows/d.png", "./rows/e.md", "./rows/f.txt"]


def test_wheels_make_an_environment_of_the_machines_python(tmp_path):
    wheels, metadata = tmp_path / "wheels", "greeting-1.dist-info"
    wheels.mkdir()
    files = {
        "greeting.py": "def main():\n    print('hello')\n",
        f"{metadata}/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{metadata}/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    with zipfile.ZipFile(wheels / "greeting-1-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{metadata}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{metadata}/RECORD"]))
    twice = 'ROOT="$HERE"; for _ in 1 2; do (start_session && greet && python -c "import greeting; print(3)"); done'
    result = session(tmp_path, twice, WHEELS=wheels)
    assert result.stdout == "hello\n3\n" * 2, result.stderr
    assert (tmp_path / ".venv-gpu" / "installed").exists()
