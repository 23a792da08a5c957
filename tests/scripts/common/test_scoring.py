"""scoring.py, and what evaluate.py makes of translations that are known."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import evaluate
import pytest
import torch
from common import bootstrap, scoring
from common.translating import Translation
from fairseq.data import Dictionary
from sacrebleu.metrics import BLEU, CHRF

HYPOTHESES = ["the cat sat on the mat today", "there is a dog", "A man rides his bicycle down the street"]
REFERENCES = ["the cat sat on the mat", "there is a dog in the garden", "a man rides a bicycle down the street"]


@pytest.fixture
def scorer(tmp_path: Path) -> Callable[..., scoring.Scorer]:
    """The scorer of a prepared folder with such settings, and a dictionary of the given units."""

    def build(*units: str, **settings: str) -> scoring.Scorer:
        lines = [f"{key}={value}" for key, value in {"SOURCE_LANG": "de", "TARGET_LANG": "en", **settings}.items()]
        (tmp_path / "settings.txt").write_text("\n".join(lines) + "\n")
        dictionary = Dictionary()
        for unit in units:
            dictionary.add_symbol(unit)
        return scoring.Scorer(tmp_path, dictionary)

    return build


@pytest.mark.parametrize(("tokenized", "text"), [("0", "Hello, it's me!"), ("1", "Hello , it &apos;s me !")])
def test_sub_words_become_plain_text_unless_the_references_are_tokenised(scorer, tokenized, text):
    units = ("Hel@@", "lo", ",", "it", "&apos;s", "m@@", "e", "!")
    with_units = scorer(*units, TOKENIZED=tokenized)
    tokens = torch.tensor([with_units.dictionary.index(unit) for unit in units])
    assert with_units.text(tokens) == text


@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_are_sacrebleus_of_hypotheses_against_references(scorer, lowercase):
    """With hypotheses and references exchanged, or case minded where it isn't to be, they are others."""
    scores, statistics = scorer(LOWERCASE=str(int(lowercase))).score(HYPOTHESES, REFERENCES)
    for name, metric in (("bleu", BLEU), ("chrf", CHRF)):
        expected = metric(lowercase=lowercase)
        assert scores[name] == round(expected.corpus_score(HYPOTHESES, [REFERENCES]).score, 2)
        assert scores[f"{name}_signature"] == str(expected.get_signature())
        for other, texts in ((lowercase, (REFERENCES, HYPOTHESES)), (not lowercase, (HYPOTHESES, REFERENCES))):
            assert scores[name] != round(metric(lowercase=other).corpus_score(texts[0], [texts[1]]).score, 2)
    assert [sentence[:2] for sentence in statistics] == [[7, 6], [4, 7], [8, 8]]


@pytest.mark.parametrize("sentences", [2, 4])
def test_translations_that_are_not_as_many_as_references_are_not_scored(scorer, sentences):
    with pytest.raises(SystemExit, match=f"3 sentences in, {sentences} out; not scored"):
        scorer().score((HYPOTHESES * 2)[:sentences], REFERENCES)


class Known:
    """A way to translate whose output is known: the references, of which the first `lost` words are left out."""

    lengths = "predicted"

    def __init__(self, lost: int) -> None:
        self.lost, self.steps = lost, str(lost + 1)

    def translate(self, samples: list[dict]) -> dict[int, Translation]:
        return {
            number: Translation(target[target != 1][self.lost :], number**2)
            for sample in samples
            for number, target in zip(sample["id"].tolist(), sample["target"], strict=True)
        }


def test_translations_meet_their_own_references_whatever_batch_they_were_in(build_task, corpus, tmp_path):
    """Batches go by length; the kept statistics are in the order of the scores."""
    (tmp_path / "settings.txt").write_text("SOURCE_LANG=src\nTARGET_LANG=tgt\nTOKENIZED=1\n")
    (tmp_path / "ref.test.tgt").write_text((corpus / "test.tgt").read_text())
    task, options = build_task(), Namespace(splits=["test"], max_tokens=50, hypotheses=tmp_path)
    scorer = scoring.Scorer(tmp_path, task.target_dictionary)
    scores, kept = evaluate.measure_scores([Known(0), Known(1)], task, scorer, torch.device("cpu"), options)
    assert scores[0]["bleu"] == 100 > scores[1]["bleu"] > 10
    assert [score["mean_steps"] for score in scores] == [285.17, 285.17]  # (0² + … + 29²) / 30
    found = [round(bootstrap.corpus_bleu(of_score), 2) for of_score in bootstrap.unpack(kept["test"], 30)]
    assert found == [score["bleu"] for score in scores]
    assert (tmp_path / "test.predicted.1").read_text() == (corpus / "test.tgt").read_text()
