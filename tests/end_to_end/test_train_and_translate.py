"""Training with BLEU in validation, generating, translating interactively, TensorBoard: the real command line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import sacrebleu
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.slow

UPDATES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def trained(train: Callable[..., CompletedProcess], folder: Path) -> CompletedProcess:
    """One training for all tests of this file."""
    bleu = ["--eval-bleu", '--eval-bleu-args={"iter_decode_max_iter": 4}', "--eval-bleu-detok=space"]
    best = ["--best-checkpoint-metric=bleu", "--maximize-best-checkpoint-metric", "--no-epoch-checkpoints"]
    result = train(folder, UPDATES, *bleu, *best, f"--tensorboard-logdir={folder / 'tensorboard'}")
    assert result.returncode == 0, result.stderr
    return result


def records(result: CompletedProcess, kind: str) -> list[dict]:
    """The JSON that fairseq logs under `kind`."""
    return [json.loads(line.split(f"| {kind} | ")[1]) for line in result.stdout.splitlines() if f"| {kind} | {{" in line]


def parts(result: CompletedProcess, letter: str) -> dict[int, list[str]]:
    """fairseq-generate's lines `<letter>-<sentence>`: the tab-separated rest."""
    assert result.returncode == 0, result.stderr
    found = re.findall(rf"^{letter}-(\d+)\t(.*)$", result.stdout, re.MULTILINE)
    assert len(found) == len({number for number, _ in found})
    return {int(number): rest.split("\t") for number, rest in found}


def test_the_model_learns_and_bleu_is_counted_in_every_validation(trained):
    validations = records(trained, "valid")
    assert len(validations) == UPDATES // 6
    bleus = [float(record["valid_bleu"]) for record in validations]
    assert bleus[-1] > 20 > bleus[0]
    assert float(validations[-1]["valid_step4_accuracy"]) > 50 > float(validations[0]["valid_step4_accuracy"])


def test_the_best_checkpoint_is_the_one_with_the_best_bleu(trained, folder, fairseq):
    """Its BLEU by fairseq-generate, with as many steps, is the best that validation logged."""
    best = max(records(trained, "valid"), key=lambda record: float(record["valid_bleu"]))
    state = torch.load(folder / "checkpoint_best.pt")
    assert state["optimizer_history"][-1]["num_updates"] == int(best["valid_num_updates"])
    path = f"--path={folder / 'checkpoint_best.pt'}"
    result = fairseq("generate", path, "--gen-subset=valid", "--batch-size=5", "--iter-decode-max-iter=4")
    hypotheses, references = parts(result, "H"), parts(result, "T")
    assert sorted(hypotheses) == sorted(references) == list(range(41))
    bleu = sacrebleu.corpus_bleu([hypotheses[i][1] for i in range(41)], [[references[i][0] for i in range(41)]])
    assert round(bleu.score, 2) == float(best["valid_bleu"])


def test_generate_translates_every_sentence_and_prints_every_step(trained, folder, fairseq, corpus):
    arguments = ["--gen-subset=test", "--batch-size=7", "--retain-iter-history", "--print-step"]
    result = fairseq("generate", f"--path={folder / 'checkpoint_last.pt'}", *arguments)
    hypotheses, steps = parts(result, "H"), parts(result, "I")
    references = (corpus / "test.tgt").read_text().splitlines()
    assert sorted(hypotheses) == list(range(30))
    assert sacrebleu.corpus_bleu([hypotheses[i][1] for i in range(30)], [references]).score > 20
    for number, (score, text) in hypotheses.items():
        history = re.findall(rf"^E-{number}_\d+\t(.*)$", result.stdout, re.MULTILINE)
        assert len(history) == int(steps[number][0])
        assert history[-1] == text
        scores = [float(value) for value in parts(result, "P")[number][0].split()]
        assert len(scores) == len(text.split())
        assert float(score) == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_the_training_data_are_translated_without_a_loss(trained, folder, fairseq):
    path = f"--path={folder / 'checkpoint_last.pt'}"
    result = fairseq("generate", path, "--gen-subset=train", "--batch-size=7", "--iter-decode-max-iter=1")
    assert sorted(parts(result, "H")) == list(range(200))


def test_interactive_translates_line_by_line_also_empty_and_unknown_words(trained, folder, fairseq):
    lines = ["a1 a9 a7", "", "a5 never-seen"]
    path = f"--path={folder / 'checkpoint_last.pt'}"
    result = fairseq("interactive", path, input="\n".join(lines) + "\n")
    hypotheses = parts(result, "H")
    assert sorted(hypotheses) == [0, 1, 2]
    assert all(text.split() for _, text in hypotheses.values())
    assert parts(result, "S")[2] == ["a5 <unk>"]


def test_a_line_too_long_for_the_model_is_an_error(trained, folder, fairseq):
    path = f"--path={folder / 'checkpoint_last.pt'}"
    result = fairseq("interactive", path, input=" ".join(["a1"] * 10_000) + "\n")
    assert result.returncode != 0
    assert "is invalid" in result.stderr
    assert "max_positions=(1024, 1024)" in result.stderr


def test_an_ensemble_is_refused(trained, folder, fairseq):
    paths = ":".join(str(folder / name) for name in ("checkpoint_last.pt", "checkpoint_best.pt"))
    result = fairseq("generate", f"--path={paths}", "--gen-subset=test", "--batch-size=7")
    assert result.returncode != 0
    assert "iterative refinement decodes with one model, got an ensemble of 2" in result.stderr


@pytest.mark.parametrize("split", ["train", "train_inner", "valid"])
def test_tensorboard_has_step_losses_accuracies_and_adaptive_momentum(trained, folder, split):
    events = EventAccumulator(str(folder / "tensorboard" / split))
    events.Reload()
    names = {
        *(f"step{i}_{what}" for i in range(1, 5) for what in ("loss", "accuracy")),
        *("length_loss", "length_accuracy", "momentum_encoder_layer1"),
        *(f"momentum_decoder{d}_layer{i}" for d in (1, 2) for i in (0, 1)),
    }
    assert names <= set(events.Tags()["scalars"])
    for name in names:
        values = [scalar.value for scalar in events.Scalars(name)]
        assert len(values) >= UPDATES // 6
        top = 1 if name.startswith("momentum") else 100
        assert all(0 <= value <= top for value in values)
    last = {r["valid_num_updates"]: r for r in records(trained, "valid")}[str(UPDATES)]
    if split == "valid":
        assert events.Scalars("step4_loss")[-1].value == pytest.approx(float(last["valid_step4_loss"]), abs=1e-3)
        assert events.Scalars("bleu")[-1].value == pytest.approx(float(last["valid_bleu"]), abs=1e-2)
