"""The autoregressive model through the real command line: fairseq's own task, criterion and beam search."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import sacrebleu

pytestmark = pytest.mark.slow

UPDATES = 120
Run = Callable[..., CompletedProcess]


@pytest.fixture(scope="module")
def train_autoregressive(fairseq: Run) -> Run:
    """Train a tiny model with adaptive momentum into a folder, for a number of updates; 6 make an epoch."""

    def run(folder: Path, updates: int, *arguments: object) -> CompletedProcess:
        model = ["--task=translation", "--arch=momentum_transformer_tiny", "--connection=adaptive", "--dropout=0"]
        loss = ["--criterion=label_smoothed_cross_entropy", "--label-smoothing=0.1"]
        optimizer = ["--optimizer=adam", "--adam-betas=(0.9, 0.98)", "--lr=0.005", "--max-tokens=400"]
        schedule = ["--lr-scheduler=inverse_sqrt", "--warmup-updates=20", f"--max-update={updates}"]
        output = [f"--save-dir={folder}", "--log-format=json", "--num-workers=0", "--seed=1", "--no-epoch-checkpoints"]
        return fairseq("train", *model, *loss, *optimizer, *schedule, *output, *arguments)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("autoregressive")


@pytest.fixture(scope="module")
def trained(train_autoregressive: Run, folder: Path) -> CompletedProcess:
    """One training for all tests of this file."""
    bleu = ["--eval-bleu", '--eval-bleu-args={"beam": 2, "max_len_a": 2}', "--eval-bleu-detok=space", "--validate-interval=10"]
    result = train_autoregressive(folder, UPDATES, *bleu)
    assert result.returncode == 0, result.stderr
    return result


def validations(result: CompletedProcess) -> list[dict]:
    """The JSON that fairseq logs for each validation."""
    return [json.loads(line.split("| valid | ")[1]) for line in result.stdout.splitlines() if "| valid | {" in line]


def test_the_model_learns_with_fairseqs_task_and_criterion(trained):
    first, *_, last = validations(trained)
    assert float(last["valid_nll_loss"]) < 0.8 * float(first["valid_nll_loss"])
    assert float(last["valid_bleu"]) > float(first["valid_bleu"])


def test_beam_search_translates_every_sentence(trained, folder, fairseq, corpus):
    every = ["--gen-subset=test", "--batch-size=7", "--required-batch-size-multiple=1"]
    result = fairseq("generate", "--task=translation", f"--path={folder / 'checkpoint_last.pt'}", "--beam=4", *every)
    assert result.returncode == 0, result.stderr
    found = {int(number): text for number, text in re.findall(r"^H-(\d+)\t\S+\t(.*)$", result.stdout, re.MULTILINE)}
    assert sorted(found) == list(range(30))
    references = (corpus / "test.tgt").read_text().splitlines()
    assert sacrebleu.corpus_bleu([found[number] for number in range(30)], [references]).score > 10


def test_training_goes_on_and_the_side_that_targets_are_padded_on_changes_no_loss(
    trained, train_autoregressive, folder, tmp_path
):
    """One more update, too small to change a weight."""
    (tmp_path / "checkpoint_last.pt").write_bytes((folder / "checkpoint_last.pt").read_bytes())
    result = train_autoregressive(tmp_path, UPDATES + 1, "--left-pad-target", "--lr=1e-30")
    assert result.returncode == 0, result.stderr
    assert f"@ {UPDATES} updates" in result.stdout
    before, after = validations(trained)[-1], validations(result)[-1]
    assert (int(before["valid_num_updates"]), int(after["valid_num_updates"])) == (UPDATES, UPDATES + 1)
    assert float(after["valid_loss"]) == pytest.approx(float(before["valid_loss"]), abs=2e-3)


def test_going_on_with_another_architecture_is_refused_with_the_difference(trained, train_autoregressive, folder, tmp_path):
    (tmp_path / "checkpoint_last.pt").write_bytes((folder / "checkpoint_last.pt").read_bytes())
    result = train_autoregressive(tmp_path, UPDATES + 6, "--attention=softmax")
    assert result.returncode != 0
    assert "the checkpoint has attention=momentum; the model was built with attention=softmax" in result.stderr


def test_a_teacher_ranks_the_length_beam_of_a_refinement_model_and_nothing_else_may(trained, train, folder, fairseq, tmp_path):
    assert train(tmp_path, 2).returncode == 0
    student = tmp_path / "checkpoint_last.pt"
    arguments = [f"--path={student}", "--gen-subset=test", "--iter-decode-with-beam=3"]
    plain = fairseq("generate", *arguments)
    ranked = fairseq("generate", *arguments, f"--rescore-with={folder / 'checkpoint_last.pt'}")
    assert ranked.returncode == 0, ranked.stderr
    outputs = [sorted(re.findall(r"^H-(\d+)\t\S+\t(.*)$", result.stdout, re.MULTILINE)) for result in (plain, ranked)]
    assert len(outputs[0]) == len(outputs[1]) == 30
    assert outputs[0] != outputs[1]
    refused = fairseq("generate", *arguments, f"--rescore-with={student}")
    assert refused.returncode != 0
    assert "MomentumNatModel doesn't predict word after word" in refused.stderr
