"""evaluate.py on small models of random weights: refinement and autoregressive."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import checkpoint_data
import evaluate
import pytest
import torch
from common import bootstrap, run_record, translating
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import setup_task
from fairseq.tasks.translation import TranslationTask
from omegaconf import OmegaConf

from tests.models.transformers import tiny_transformer
from tests.scripts import commands

ROOT = Path(__file__).resolve().parents[2]
NAT = ["--task=translation_nat", "--arch=momentum_nat_tiny", "--criterion=nat_refinement_loss"]
AUTOREGRESSIVE = [
    *("--task=translation", "--arch=transformer_iwslt_de_en", "--encoder-layers=1", "--decoder-layers=1"),
    *("--encoder-embed-dim=16", "--decoder-embed-dim=16", "--encoder-ffn-embed-dim=16", "--decoder-ffn-embed-dim=16"),
]


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as prepare_parallel.sh leaves it."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "data-bin").symlink_to(corpus / "bin")
    (folder / "bpe").symlink_to(corpus)
    for split in ("valid", "test"):
        (folder / f"ref.{split}.tgt").write_text((corpus / f"{split}.tgt").read_text())
    settings = {"SOURCE_LANG": "src", "TARGET_LANG": "tgt", "VALID": "val", "TEST": "made", "LOWERCASE": "0", "TOKENIZED": "1"}
    lines = [f"{key}={value}" for key, value in {**settings, "CORPUS": "numbers, a substitute", "DISTILLED": "1"}.items()]
    (folder / "settings.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def checkpoint(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A checkpoint of an untrained model, as fairseq-train would name its parts."""

    def build(flags: list[str]) -> Path:
        parser = options.get_training_parser()
        data = [str(prepared / "data-bin"), "--source-lang=src", "--target-lang=tgt"]
        args = options.parse_args_and_arch(parser, [*data, "--max-update=9", *flags])
        cfg = convert_namespace_to_omegaconf(args)
        task = setup_task(cfg.task)
        torch.manual_seed(cfg.common.seed)
        model = task.build_model(cfg.model)
        file = tmp_path_factory.mktemp("model") / "checkpoint_best.pt"
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
        history = [{"num_updates": 7, "best_loss": None}]
        state = {"args": None, "cfg": plain, "model": model.state_dict(), "optimizer_history": history, "extra_state": {}}
        torch.save(state, file)
        (file.parent / "revision.txt").write_text("abc\n")
        return file

    return build


@pytest.fixture
def run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """evaluate.py in this process: the JSON that it writes."""

    def call(model: Path, *flags: str, data: Path = prepared) -> dict:
        out = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, (data, model, out)), "--cpu", *flags])
        evaluate.main()
        return json.loads(out.read_text(encoding="utf-8"))

    return call


@pytest.fixture(scope="module")
def nat(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(NAT)


def test_a_result_says_what_was_scored_how_and_on_what(nat, run, prepared):
    result = run(nat, "--name=softmax", "--steps", "1", "3", "--speed-runs=3", "--speed-sentences=5", "--max-tokens=100")
    assert result["name"] == "softmax"
    assert f".../{nat.name} .../result.json --cpu --name=softmax" in result["command"]
    assert str(nat.parent) not in result["command"]
    assert (result["updates"], result["max_update"], result["training_revisions"], result["seed"]) == (7, 9, ["abc"], 1)
    assert result["model"]["attention"] == "momentum" and result["parameters"] > 0 and result["dtype"] == "float32"
    keys = [(s["split"], s["lengths"], s["steps"]) for s in result["scores"]]
    assert keys == [(a, b, c) for a in ("valid", "test") for b in ("predicted", "oracle") for c in ("1", "3")]
    assert {s["bleu_signature"].split("|")[0] for s in result["scores"]} == {"nrefs:1"}
    assert [(s["steps"], s["batch"]) for s in result["speeds"]] == [(a, b) for a in "13" for b in ("1", "100 tokens")]
    assert {(s["split"], s["lengths"]) for s in result["speeds"]} == {("test", "predicted")}
    assert all(len(s["seconds_of_each_run"]) == 3 and s["subwords_per_second"] > 0 for s in result["speeds"])
    data = result["data"]
    assert (data["corpus"], data["substitute"], data["distilled"]) == ("numbers, a substitute", True, True)
    assert data["sets"]["test"]["sentences"] == 30 and data["sets"]["valid"]["name"] == "val"
    texts = {language: (prepared / "bpe" / f"train.{language}").read_bytes() for language in ("src", "tgt")}
    assert result["training_set"] == {language: hashlib.sha256(text).hexdigest() for language, text in texts.items()}


def test_a_result_says_what_was_trained_on_and_not_what_the_scored_folder_was_prepared_from(nat, run, prepared, tmp_path, capsys):
    other = shutil.copytree(prepared, tmp_path / "other")
    settings = (other / "settings.txt").read_text()
    (other / "settings.txt").write_text(settings.replace("DISTILLED=1", "DISTILLED=0").replace("a substitute", "whole"))
    (other / "bpe" / "train.tgt").write_text("other words\n")
    flags = ("--steps=1", "--splits=test", "--lengths=predicted", "--speed-runs=0")
    own, result = run(nat, *flags), run(nat, *flags, data=other)
    assert own["training_set"] and own["data"]["distilled"]
    assert (result["training_set"], result["data"]) == (own["training_set"], own["data"])
    state = torch.load(nat, weights_only=True)
    state["cfg"]["task"]["data"] = str(tmp_path / "removed" / "data-bin")
    moved = tmp_path / "moved.pt"
    torch.save(state, moved)
    (tmp_path / "removed").mkdir()
    for settings in (None, "ROW=softmax\n"):  # of a training, say
        if settings is not None:
            (tmp_path / "removed/settings.txt").write_text(settings)
        capsys.readouterr()
        result = run(moved, *flags)
        assert result["training_set"] == {} and result["scores"] == own["scores"]
        assert [result["data"][key] for key in ("corpus", "substitute", "distilled")] == [None] * 3
        assert "removed/data-bin: the model was trained on it, and no prepared folder is there" in capsys.readouterr().out


def test_a_dictionary_is_compared_with_that_of_the_training_not_with_itself(nat, run, prepared, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    words = (other / "data-bin/dict.tgt.txt").read_text().splitlines(keepends=True)
    (other / "data-bin/dict.tgt.txt").write_text("".join(reversed(words)))
    with pytest.raises(SystemExit, match=r"was trained with another dictionary, .*dict.tgt.txt, than .*dict.tgt.txt; prepare"):
        run(nat, data=other)


def test_data_of_another_direction_or_dictionary_is_refused(nat, run, prepared, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    settings = (other / "settings.txt").read_text()
    swapped = settings.replace("SOURCE_LANG=src", "SOURCE_LANG=tgt").replace("TARGET_LANG=tgt", "TARGET_LANG=src")
    (other / "settings.txt").write_text(swapped)
    reason = r"checkpoint_best.pt translates src-tgt, but .*other is prepared for tgt-src"
    with pytest.raises(SystemExit, match=reason):
        run(nat, data=other)
    translated = commands.run("scripts/generate.sh", DATA=other, CHECKPOINT=nat, OUT=tmp_path / "translation")
    assert translated.returncode == 1 and re.search(reason, translated.stderr)
    (other / "settings.txt").write_text(settings)
    words = (other / "data-bin/dict.tgt.txt").read_text().splitlines(keepends=True)
    beside = nat.with_name("dict.tgt.txt")
    beside.write_text("".join(reversed(words)))
    with pytest.raises(SystemExit, match=r"was trained with another dictionary, .*dict.tgt.txt, than .*dict.tgt.txt; prepare"):
        run(nat, data=other)
    beside.unlink()
    with pytest.raises(SystemExit, match=r"other/settings.txt: not a checkpoint of fairseq that loads safely"):
        checkpoint_data.main([str(other / "settings.txt"), str(other)])


def test_a_checkpoint_whose_training_was_given_no_languages_is_scored(nat, run, prepared, tmp_path):
    state = torch.load(nat, weights_only=True)
    state["cfg"]["task"].update(source_lang=None, target_lang=None)
    unnamed = tmp_path / "unnamed.pt"
    torch.save(state, unnamed)
    checkpoint_data.main([str(unnamed), str(prepared)])
    flags = ("--steps=1", "--splits=test", "--lengths=predicted", "--speed-runs=0")
    assert run(unnamed, *flags)["scores"] == run(nat, *flags)["scores"]


def test_the_kept_sentences_give_the_scores(nat, run):
    result = run(nat, "--steps", "1", "2", "--speed-runs=0")
    for split, sentences in (("valid", 41), ("test", 30)):
        kept = bootstrap.unpack(result["sentence_statistics"][split], sentences)
        scores = [s["bleu"] for s in result["scores"] if s["split"] == split]
        assert [round(bootstrap.corpus_bleu(statistics), 2) for statistics in kept] == scores
        assert len(scores) == 4


def test_an_autoregressive_model_is_scored_with_a_beam(checkpoint, run, tmp_path):
    flags = ("--splits", "test", "--beam=2", "--speed-runs=3", "--speed-sentences=2", "--hypotheses", str(tmp_path / "text"))
    result = run(checkpoint(AUTOREGRESSIVE), *flags)
    (score,) = result["scores"]
    assert (score["lengths"], score["steps"]) == ("predicted", "beam 2")
    assert {speed["steps"] for speed in result["speeds"]} == {"beam 2"}
    assert result["model"]["encoder_layers"] == 1
    text = (tmp_path / "text" / "test.predicted.beam2").read_text(encoding="utf-8")
    assert text.count("\n") == 30


@pytest.mark.parametrize("flag", ["--collapse-repeats", "--length-beam=2"])
def test_an_autoregressive_model_is_not_scored_with_what_it_would_ignore(checkpoint, run, flag):
    with pytest.raises(SystemExit, match=f"translates by beam search .*{flag.split('=')[0]}: of refinement models only"):
        run(checkpoint(AUTOREGRESSIVE), "--splits", "test", flag, "--speed-runs=0")


def test_a_beams_words_and_eos_are_its_steps():
    class Beam:
        def generate(self, models, sample):
            return [[{"tokens": torch.tensor([5, 6, 2])}]]

    (translation,) = translating.Decoder(None, Beam(), "predicted", "beam 4").translate([{"id": torch.tensor([3])}]).values()
    assert translation.tokens.tolist() == [5, 6] and translation.steps == 3


def test_the_published_protocol_is_named_in_the_result(nat, run):
    result = run(nat, "--splits", "test", "--steps", "2", "--lengths", "oracle", "--collapse-repeats", "--speed-runs=3")
    assert result["collapse_repeats"] is True
    assert {entry["lengths"] for entry in result["scores"] + result["speeds"]} == {"oracle"}


def test_a_teacher_ranks_the_length_beam(nat, checkpoint, run):
    teacher = checkpoint(AUTOREGRESSIVE)
    result = run(nat, "--splits", "test", "--steps", "2", "--speed-runs=0", "--length-beam=3", f"--rescore-with={teacher}")
    assert (result["rescored"], result["length_beam"]) == (True, 3)
    assert {score["lengths"] for score in result["scores"]} == {"predicted", "oracle"}


def test_bfloat16_is_named_in_the_result(nat, run):
    result = run(nat, "--splits", "test", "--steps", "2", "--lengths", "predicted", "--speed-runs=0", "--dtype=bfloat16")
    assert result["dtype"] == "bfloat16"
    assert result["scores"][0]["bleu"] >= 0


def test_speed_by_length_takes_the_median_run_of_each_class():
    classes = translating.speed_by_length([1, 10, 11, 25], [2, 4, 6, 8], [[1, 1, 9, 2], [2, 2, 2, 2], [1, 9, 1, 2]])
    expected = [([1, 10], 2, 1.5), ([11, 20], 1, 3.0), ([21, 30], 1, 4.0)]
    assert [(c["source_subwords"], c["sentences"], c["subwords_per_second"]) for c in classes] == expected


def test_other_numbers_of_references_are_refused(nat, run, prepared, tmp_path):
    for file in prepared.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "ref.test.tgt").unlink()
    (tmp_path / "ref.test.tgt").write_text("one\ntwo\n")
    with pytest.raises(SystemExit, match="2 sentences in, 30 out; not scored"):
        run(nat, "--splits", "test", "--speed-runs=0", data=tmp_path)
    (tmp_path / "ref.test.tgt").unlink()
    with pytest.raises(SystemExit, match=r"ref\.test\.tgt: no such file"):
        run(nat, "--splits", "test", "--speed-runs=0", data=tmp_path)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--steps", "0"], "--steps 0: must be a positive number"),
        (["--speed-runs=2"], "a median wants at least 3"),
        (["--beam=0"], "--beam 0: must be at least 1"),
        (["--length-beam=2", "--rescore-with=none.pt"], "none.pt: no such checkpoint"),
        ([f"--rescore-with={__file__}"], "nothing to rank without --length-beam"),
    ],
)
def test_flags_out_of_range_are_refused(flags, complaint, nat, run, capsys):
    with pytest.raises(SystemExit):
        run(nat, *flags)
    assert complaint in capsys.readouterr().err


def test_the_revision_can_be_told_where_there_is_no_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(run_record, "ROOT", tmp_path)
    monkeypatch.setenv("MOMENTUM_REVISION", "1234")
    assert run_record.git_revision() == "1234"
    monkeypatch.delenv("MOMENTUM_REVISION")
    assert run_record.git_revision() == "unknown"


def test_the_revision_is_not_that_of_another_repository_in_which_the_tree_was_unpacked(monkeypatch, tmp_path):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    shutil.copytree(ROOT / "scripts", tmp_path / "tree" / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(run_record, "ROOT", tmp_path / "tree")
    monkeypatch.setenv("MOMENTUM_REVISION", "1234")
    assert run_record.git_revision() == "1234"
    note = ["bash", "-c", 'source "$0"; note_revision "$1"', tmp_path / "tree/scripts/common.sh", tmp_path / "model"]
    subprocess.run(note, check=True)
    assert (tmp_path / "model" / "revision.txt").read_text() == "1234\n"
    subprocess.run(["git", "-C", tmp_path, "add", "tree"], check=True)
    assert run_record.git_revision() not in ("1234", "unknown")


def test_a_command_through_a_link_to_the_repository_names_no_folder_of_this_machine(tmp_path):
    link = tmp_path / "mein Ordner"
    link.symlink_to(run_record.ROOT)
    words = [f"{link}/scripts/evaluate.py", f"{link}/runs", f"{tmp_path}/x.json", "runs/y", "5"]
    expected = "python scripts/evaluate.py runs .../x.json runs/y 5"
    assert run_record.run_record(words)["command"] == expected
    assert run_record.run_record([f"{run_record.ROOT}/scripts/evaluate.py", *words[1:]])["command"] == expected


def test_options_of_a_refinement_reach_its_generator(build_task):
    task = build_task()
    options, teacher = Namespace(length_beam=3, collapse_repeats=True), object()
    predicted = translating.refinement(task, options, "predicted", "adaptive", teacher)
    assert (predicted.length_beam, predicted.adaptive, predicted.max_steps) == (3, True, 10)
    oracle = translating.refinement(task, options, "oracle", "5", teacher)
    assert predicted.scorer is teacher and oracle.scorer is None
    assert (oracle.length_beam, oracle.oracle_length, oracle.adaptive, oracle.max_steps) == (1, True, False, 5)
    assert oracle.collapse_repeats


def test_a_beam_search_that_finds_no_end_is_cut_alike_by_both_scripts_whatever_its_batch(build_task, dictionary):
    task = TranslationTask(build_task().cfg, dictionary, dictionary)
    (decoder,) = translating.decoders(task, tiny_transformer(dictionary), Namespace(beam=2))
    assert (decoder.generator.max_len_a, decoder.generator.max_len_b) == (0, translating.MAX_WORDS)
    script = (ROOT / "scripts" / "generate.sh").read_text(encoding="utf-8")
    assert re.findall(r"--max-len-[ab] \S+", script) == ["--max-len-a 0", f"--max-len-b {translating.MAX_WORDS}"]
