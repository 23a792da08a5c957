"""What train.sh starts for GPUs, machines, SLURM and batch sizes: a recorder stands in for fairseq-train, an answer for torch."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
Train = Callable[..., subprocess.CompletedProcess]

PYTHON = f"""#!/bin/sh
case "$*" in *device_count*) echo "$VISIBLE_GPUS" ;; *) exec {shlex.quote(sys.executable)} "$@" ;; esac
"""
RECORDER = """#!/bin/sh
printf '%s\\n' "$@" >"$RECORDS/$$"
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames node[7-8]" ] && printf 'node7\\nnode8\\n'
"""


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Run train.sh with these variables on a machine of `gpus` GPUs; `end_it` terminates it when all workers run."""
    programs = {"python": PYTHON, "fairseq-train": RECORDER, "scontrol": SCONTROL}
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "prepared" / "data-bin").mkdir(parents=True)
    (tmp_path / "prepared" / "data-bin" / "dict.de.txt").write_text("a 1\n")
    (tmp_path / "records").mkdir()

    def run(*flags: str, gpus: int = 0, end_it: bool = False, **variables: object) -> subprocess.CompletedProcess:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        places = {"DATA": tmp_path / "prepared", "OUT": tmp_path / "out", "MOMENTUM_ENV": tmp_path}
        settings = {**places, "RECORDS": tmp_path / "records", "VISIBLE_GPUS": gpus, **variables}
        environment = {**clean, **{name: str(value) for name, value in settings.items()}}
        command = ["bash", str(ROOT / "scripts" / "train.sh"), *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            while end_it and process.poll() is None and len(list((tmp_path / "records").iterdir())) < gpus:
                time.sleep(0.05)
            if end_it:
                process.terminate()
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


@pytest.fixture
def workers(train: Train, tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """The flags that each worker was started with, by rank."""

    def run(*flags: str, **variables: object) -> list[dict[str, str]]:
        result = train(*flags, **variables)
        assert result.returncode == 0, result.stderr
        started = []
        for record in (tmp_path / "records").iterdir():
            words = record.read_text().splitlines()
            record.unlink()
            started.append({w: after for w, after in zip(words, [*words[1:], ""], strict=True) if w.startswith("--")})
        return sorted(started, key=lambda flags: int(flags.get("--distributed-rank", 0)))

    return run


def test_a_worker_starts_on_each_gpu_that_torch_sees(workers):
    started = workers(gpus=4)
    assert [(flags["--distributed-rank"], flags["--device-id"]) for flags in started] == [(f"{i}", f"{i}") for i in range(4)]
    for flags in started:
        assert (flags["--distributed-world-size"], flags["--distributed-backend"]) == ("4", "nccl")
        assert flags["--distributed-init-method"] == started[0]["--distributed-init-method"]
        assert "--cpu" not in flags
        assert "--distributed-no-spawn" in flags


def test_gpus_1_starts_one_worker_where_there_are_more_gpus(workers):
    (flags,) = workers(gpus=4, GPUS=1)
    assert flags["--distributed-world-size"] == "1"
    assert "--distributed-init-method" not in flags


def test_without_a_gpu_one_worker_trains_on_the_cpu(workers):
    (flags,) = workers()
    assert "--cpu" in flags
    assert (flags["--distributed-world-size"], flags["--max-tokens"]) == ("1", "2048")


def test_machines_number_their_workers_one_after_the_other(workers):
    started = workers(gpus=2, NODES=3, NODE_RANK=1, MASTER_ADDR="10.0.0.1", MASTER_PORT=1234)
    assert [(flags["--distributed-rank"], flags["--device-id"]) for flags in started] == [("2", "0"), ("3", "1")]
    for flags in started:
        assert (flags["--distributed-world-size"], flags["--distributed-init-method"]) == ("6", "tcp://10.0.0.1:1234")
        assert "--log-file" not in flags


def slurm(node: int, tasks: int = 2) -> dict[str, object]:
    """srun's environment on machine `node` of two."""
    job = {"SLURM_JOB_ID": 41234, "SLURM_JOB_NUM_NODES": 2}
    step = {"SLURM_STEP_NUM_NODES": 2, "SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_NODELIST": "node[7-8]"}
    return {**job, **step, "SLURM_NODEID": node}


def test_srun_tells_a_machine_its_place(workers):
    for node in (0, 1):
        started = workers(gpus=8, **slurm(node))
        assert [int(flags["--distributed-rank"]) for flags in started] == list(range(8 * node, 8 * node + 8))
        assert {flags["--distributed-init-method"] for flags in started} == {"tcp://node7:21234"}
        assert {flags["--distributed-world-size"] for flags in started} == {"16"}


def test_srun_with_a_task_for_each_gpu_is_refused(train):
    refused = train(gpus=8, **slurm(0, tasks=16))
    assert refused.returncode != 0
    assert "srun started 16 tasks on 2 machines; start one a machine (--ntasks-per-node=1)" in refused.stderr


def test_a_job_of_several_machines_without_srun_is_refused(train):
    refused = train(gpus=8, SLURM_JOB_ID=1, SLURM_JOB_NUM_NODES=2)
    assert "this job has 2 machines, but train.sh runs on one: start it by srun" in refused.stderr


@pytest.mark.parametrize(
    ("gpus", "accumulated", "tokens"),
    [(1, "2", "2048"), (2, "1", "2048"), (4, "1", "1024"), (8, "1", "512")],
)
def test_accumulation_holds_the_papers_batch_on_any_number_of_gpus(workers, gpus, accumulated, tokens):
    for flags in workers(gpus=gpus, TOTAL_TOKENS=4096):
        assert (flags["--update-freq"], flags["--max-tokens"]) == (accumulated, tokens)
    assert gpus * int(accumulated) * int(tokens) == 4096


def test_a_batch_that_cannot_be_held_exactly_is_refused(train):
    refused = train(gpus=3, TOTAL_TOKENS=4096)
    assert refused.returncode != 0
    assert "TOTAL_TOKENS=4096 can't be held exactly by 3 workers with 1 batches of at most MAX_TOKENS=2048" in refused.stderr
    refused = train(gpus=1, TOTAL_TOKENS=4097)
    assert "take a multiple of 3, or another number of workers or MAX_TOKENS" in refused.stderr


@pytest.mark.parametrize(("precision", "flag"), [("fp16", "--fp16"), ("bf16", "--bf16"), ("amp", "--amp")])
def test_a_precision_is_its_flag(workers, train, precision, flag):
    (flags,) = workers(gpus=1, PRECISION=precision)
    assert flag in flags
    assert f"PRECISION={precision} needs a GPU" in train(PRECISION=precision).stderr


def test_a_flag_after_the_scripts_name_goes_over_the_scripts_own(workers):
    for flags in workers("--ddp-backend", "pytorch_ddp", "--lr", "7", gpus=2):
        assert (flags["--ddp-backend"], flags["--lr"]) == ("pytorch_ddp", "7")


def test_an_autoregressive_model_gets_its_task_criterion_and_greedy_validation(workers):
    (flags,) = workers(TASK="translation", ARCH="transformer")
    assert (flags["--task"], flags["--criterion"], flags["--label-smoothing"]) == (
        "translation",
        "label_smoothed_cross_entropy",
        "0.1",
    )
    assert '"beam": 1' in flags["--eval-bleu-args"]
    assert flags["--required-batch-size-multiple"] == "1"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PRECISION": "fp8"}, "PRECISION=fp8: must be fp32, fp16, bf16 or amp"),
        ({"GPUS": "all"}, "GPUS=all: must be a whole number, at least 1"),
        ({"GPUS": "0"}, "GPUS=0: must be a whole number, at least 1"),
        ({"GPUS": "1"}, "torch sees no GPU here; on a CPU set PROCESSES, not GPUS"),
        ({"gpus": 2, "GPUS": "3"}, "GPUS=3: torch sees 2 here"),
        ({"gpus": 2, "PROCESSES": "2"}, "PROCESSES=2 is for a CPU; on GPUs set GPUS"),
        ({"DEVICE": "cuda"}, "torch sees no GPU here"),
        ({"DEVICE": "tpu"}, "DEVICE=tpu: must be cpu, cuda or auto"),
        ({"TASK": "language_modeling"}, "TASK=language_modeling: must be translation_nat or translation"),
        ({"TOTAL_TOKENS": "many"}, "TOTAL_TOKENS=many: must be a whole number"),
        ({"NODES": "2"}, "MASTER_ADDR is not set: with NODES=2, name machine 0's address"),
        ({"NODES": "2", "NODE_RANK": "2"}, "NODE_RANK=2: must be a whole number below NODES=2"),
    ],
)
def test_a_bad_setting_is_refused_by_name_and_value(train, tmp_path, variables, message):
    refused = train(**variables)
    assert refused.returncode != 0
    assert message in refused.stderr
    assert not list((tmp_path / "records").iterdir())


def test_a_folder_trained_with_another_dictionary_is_refused(train, tmp_path):
    assert train().returncode == 0
    torch.save({"cfg": {}, "optimizer_history": [{"num_updates": 3}]}, tmp_path / "out" / "checkpoint_last.pt")
    assert train().returncode == 0
    (tmp_path / "prepared" / "data-bin" / "dict.de.txt").write_text("b 1\n")
    assert "was trained with another dict.de.txt than DATA=" in train().stderr


def test_a_training_that_has_had_its_updates_is_left_as_it_is(train, tmp_path):
    (tmp_path / "out").mkdir()
    torch.save({"cfg": {}, "optimizer_history": [{"num_updates": 3}]}, tmp_path / "out" / "checkpoint_last.pt")
    done, more = train(MAX_UPDATE=3), train(MAX_UPDATE=4)
    assert "is trained, nothing to do" in done.stdout and done.returncode == 0
    assert "nothing to do" not in more.stdout and more.returncode == 0, more.stderr
    for flags in (["--max-update", "4"], ["--max-update=4"]):  # overrides the script's own
        assert "nothing to do" not in train(*flags, MAX_UPDATE=3).stdout


def test_the_worker_that_fails_is_named_and_the_others_are_stopped(train, tmp_path):
    failing = '#!/bin/sh\ncase "$*" in *"--distributed-rank 2"*) exit 3 ;; esac\nexec sleep 60\n'
    (tmp_path / "bin" / "fairseq-train").write_text(failing)
    result = train(gpus=4)
    assert result.returncode == 1
    assert "worker 2 ended with an error (status 3); the others were stopped" in result.stderr
    assert "the training stopped before its first checkpoint" in result.stderr


def test_a_terminated_run_ends_its_workers(train, tmp_path):
    """As SLURM does at a job's end: only the script gets the signal."""
    endless = '#!/bin/sh\ntouch "$RECORDS/$$"\nexec sleep 60\n'
    (tmp_path / "bin" / "fairseq-train").write_text(endless)
    assert train(gpus=3, end_it=True).returncode == 143
    workers = [record.name for record in (tmp_path / "records").iterdir()]
    assert len(workers) == 3
    assert not any(Path("/proc", worker).exists() for worker in workers)
