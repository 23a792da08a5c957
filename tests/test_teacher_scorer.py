"""Ranking a length beam by an autoregressive teacher."""

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from momentum_fairseq import teacher_scorer
from momentum_fairseq.models.momentum_transformer import MomentumTransformerConfig, MomentumTransformerModel
from momentum_fairseq.refinement_generator import RefinementGenerator
from momentum_fairseq.teacher_scorer import TeacherScorer
from tests.models.sentences import EOS, PAD, words


@pytest.fixture
def teacher(dictionary) -> MomentumTransformerModel:
    torch.manual_seed(3)
    sizes = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "dropout": 0.5}
    config = MomentumTransformerConfig(**sizes, max_source_positions=64, max_target_positions=64)
    return MomentumTransformerModel(config, dictionary, dictionary)


def left_padded(sentences: list[Tensor]) -> Tensor:
    """int64 `[B,S]`, EOS behind each."""
    width = max(map(len, sentences))
    return torch.stack([F.pad(F.pad(s, (0, 1), value=EOS), (width - len(s), 0), value=PAD) for s in sentences])


@torch.no_grad()
def test_a_score_is_the_mean_log_probability_of_the_words_and_the_end_one_after_another(teacher, dictionary):
    sources, translations = words(4, 7, 2, seed=1), words(3, 1, 6, seed=2)
    scores = TeacherScorer(teacher, dictionary).score(left_padded(sources), translations)
    for source, translation, score in zip(sources, translations, scores, strict=True):
        total, prefix = 0.0, [EOS]
        for word in [*translation.tolist(), EOS]:
            logits, _ = teacher(left_padded([source]), torch.tensor([len(source) + 1]), torch.tensor([prefix]))
            total += float(F.log_softmax(logits[0, -1].double(), -1)[word])
            prefix.append(word)
        assert score == pytest.approx(total / (len(translation) + 1), rel=1e-5)


def test_the_teacher_is_told_the_length_of_each_source(teacher, dictionary):
    """Not by padding alone: fairseq's recurrent models read the lengths."""
    seen = []
    teacher.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments[1].tolist()))
    TeacherScorer(teacher, dictionary).score(left_padded(words(4, 7, 2, seed=1)), words(3, 1, 6, seed=2))
    assert seen == [5, 8, 3]  # EOS included


def test_many_translations_are_scored_some_at_a_time(teacher, dictionary, monkeypatch):
    sources, translations = left_padded(words(4, 7, 2, 5, 3, seed=1)), words(3, 1, 6, 2, 4, seed=2)
    scorer = TeacherScorer(teacher, dictionary)
    expected = scorer.score(sources, translations)
    monkeypatch.setattr(teacher_scorer, "ROWS_AT_ONCE", 2)
    assert scorer.score(sources, translations) == pytest.approx(expected, rel=1e-5)


def test_the_scorer_ranks_the_length_beam_and_its_score_is_returned(build_model, teacher, dictionary):
    model, scorer = build_model(), TeacherScorer(teacher, dictionary)
    sample = {"net_input": {"src_tokens": left_padded(words(5, 8, 3, seed=4))}}
    plain = RefinementGenerator(dictionary, length_beam=4).generate([model], sample)
    ranked = RefinementGenerator(dictionary, length_beam=4, scorer=scorer).generate([model], sample)
    for i, (ours, others) in enumerate(zip(ranked, plain, strict=True)):
        assert sorted(h["tokens"].tolist() for h in ours) == sorted(h["tokens"].tolist() for h in others)
        source = sample["net_input"]["src_tokens"][i].expand(4, -1)
        expected = scorer.score(source, [h["tokens"] for h in ours])
        scores = [h["score"] for h in ours]
        assert scores == pytest.approx(expected, rel=1e-5)
        assert scores == sorted(scores, reverse=True)
    assert [h[0]["tokens"].tolist() for h in ranked] != [h[0]["tokens"].tolist() for h in plain]


def test_a_scorer_without_a_length_beam_is_refused(teacher, dictionary):
    with pytest.raises(ValueError, match="--rescore-with needs --iter-decode-with-beam of at least 2"):
        RefinementGenerator(dictionary, scorer=TeacherScorer(teacher, dictionary))


def test_a_task_that_scores_bleu_while_it_trains_loads_a_teacher_and_goes_on_to_score(build_task, tmp_path):
    task, path = build_task(eval_bleu=True, eval_bleu_detok="space"), tmp_path / "teacher.pt"
    config = MomentumTransformerConfig(embed_dim=12, ffn_dim=16, layers=1, heads=2)
    config.max_source_positions = config.max_target_positions = 256
    model = MomentumTransformerModel(config, task.source_dictionary, task.target_dictionary)
    cfg = {"model": {**asdict(config), "_name": "momentum_transformer"}, "common": {}, "task": {}}
    rest = {"optimizer_history": [{"num_updates": 0, "lr_scheduler_state": {}}], "extra_state": {"train_iterator": {}}}
    torch.save({"cfg": cfg, "model": model.state_dict(), **rest}, path)
    scorer = TeacherScorer.load(str(path), task)
    assert torch.equal(scorer.model.state_dict()["decoder.embedding.weight"], model.decoder.embedding.weight)
    assert task.cfg.eval_bleu


def test_a_teacher_of_another_dictionary_and_a_damaged_one_are_refused(build_task, tmp_path):
    task, path = build_task(), tmp_path / "teacher.pt"
    path.write_bytes(b"no checkpoint")
    task.target_dictionary.save(str(tmp_path / f"dict.{task.cfg.target_lang}.txt"))
    with pytest.raises(ValueError, match=r"--rescore-with .*teacher.pt: not a checkpoint of fairseq that loads safely"):
        TeacherScorer.load(str(path), task)
    words = (tmp_path / f"dict.{task.cfg.target_lang}.txt").read_text().splitlines(keepends=True)
    (tmp_path / f"dict.{task.cfg.target_lang}.txt").write_text("".join(reversed(words)))
    with pytest.raises(ValueError, match=r"--rescore-with .*teacher.pt: its dictionaries are not those of this data"):
        TeacherScorer.load(str(path), task)


def test_a_missing_teacher_is_refused(build_task, tmp_path):
    task = build_task()
    with pytest.raises(FileNotFoundError, match="--rescore-with .*absent.pt: no such checkpoint"):
        TeacherScorer.load(str(tmp_path / "absent.pt"), task)
