"""table.py on results made up for the purpose."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table
from common import bootstrap
from sacrebleu.metrics import BLEU

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = [f"sentence {i} is made of some words and the number {i * 7}" for i in range(50)]
SIGNATURES = {"bleu_signature": "nrefs:1|case:mixed", "chrf_signature": "nrefs:1|nc:6"}
Make = Callable[..., Path]


def statistics(wrong: int) -> list[list[int]]:
    """Of a system that drops the last word of each `wrong`-th sentence."""
    lines = [line.rsplit(" ", 1)[0] if i % wrong == 0 else line for i, line in enumerate(REFERENCES)]
    return BLEU()._extract_corpus_statistics(lines, [REFERENCES])


def bleu(wrong: int) -> float:
    return round(BLEU()._aggregate_and_compute(statistics(wrong)).score, 2)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a result of a row with kept sentences; keyword arguments replace entries."""

    def write(name: str, wrong: int = 2, seed: int = 1, steps: tuple[str, ...] = ("1", "10"), **entries: Any) -> Path:
        scores = [
            {"split": "valid", "lengths": "predicted", "steps": s, "bleu": bleu(wrong), "chrf": 50.0, **SIGNATURES} for s in steps
        ]
        sets = {"valid": {"name": "tst2013", "sentences": 50, "sha256": "aa"}}
        result = {
            **{"name": name, "date": "2026-01-02", "device": "a processor", "threads": 1, "git_revision": "abc"},
            **{"updates": 7, "max_update": 7, "seed": seed, "text": {"lowercased": False, "tokenized": False}},
            "data": {"corpus": "Multi30k", "substitute": False, "distilled": False, "languages": "en-de", "sets": sets},
            **{"scores": scores, "speeds": []},
            "sentence_statistics": {"valid": bootstrap.pack([statistics(wrong)] * len(steps))},
        }
        file = tmp_path / f"{name}-{seed}-{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps({**result, **entries}), encoding="utf-8")
        return file

    return write


@pytest.fixture
def print_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What table.py prints."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["table.py", *map(str, arguments)])
        table.main()
        return capsys.readouterr().out

    return call


def cells(text: str, start: str) -> list[str]:
    """The cells of the line of a table that begins with `start`."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_one_seed_has_an_interval_and_a_difference_with_its_p_value(make, print_table):
    text = print_table(make("linear", 2), make("adaptive", 5), "--baseline", "linear")
    interval = bootstrap.half_interval(bootstrap.resample(bootstrap.unpack(bootstrap.pack([statistics(2)]), 50)[0]))
    assert cells(text, "linear") == [f"{bleu(2):.2f} ± {interval:.2f}"] * 2
    (difference, _) = cells(text.split("less linear")[1], "adaptive")
    assert difference.startswith(f"{bleu(5) - bleu(2):+.2f} ± ") and re.search(r"\(p 0\.00\d\)$", difference)
    assert "bs:1000|seed:12345" in text


def test_a_name_with_a_bar_or_a_line_feed_stays_in_its_cell(make, print_table):
    assert r"\n| beam 4 \| 8 wide | " in print_table(make("beam 4 |\n8 wide")).replace("\n", r"\n")


def test_several_seeds_have_a_mean_and_a_standard_deviation(make, print_table):
    text = print_table(make("linear", 2, seed=1), make("linear", 4, seed=2), make("adaptive", 5), "--baseline", "linear")
    mean, deviation = (bleu(2) + bleu(4)) / 2, abs(bleu(2) - bleu(4)) / 2**0.5
    assert cells(text, "linear, 2 seeds")[0] == f"{mean:.2f} ± {deviation:.2f}"
    resampled = {wrong: bootstrap.resample(np.array(statistics(wrong))) for wrong in (2, 4, 5)}
    less = bootstrap.difference(bleu(5) - mean, resampled[5], (resampled[2] + resampled[4]) / 2)
    expected = f"{less.value:+.2f} ± {less.interval:.2f} (p {less.p_value:.3f})"
    assert cells(text.split("less linear, 2 seeds")[1], "adaptive")[0] == expected
    assert "± of one seed and of differences: half the 95 % interval" in text
    assert "the standard deviation over them; a difference is one of means over seeds" in text


def test_a_seed_without_kept_sentences_leaves_its_row_without_interval(make, print_table):
    text = print_table(make("a", 2), make("b", 3, seed=1), make("b", 4, seed=2, sentence_statistics={}), "--baseline", "a")
    assert cells(text.split("less a")[1], "b, 2 seeds") == [f"{(bleu(3) + bleu(4)) / 2 - bleu(2):+.2f}"] * 2


def test_the_interval_is_of_bleu_alone_and_explained_where_any_row_has_one(make, print_table):
    text = print_table(make("linear"), make("adaptive", sentence_statistics={}), "--metrics", "bleu", "chrf")
    bleus, chrfs, conditions = text.split("\n\n")
    assert "±" in cells(bleus, "linear")[0] and "±" not in cells(bleus, "adaptive")[0]
    assert cells(chrfs, "linear") == ["50.00", "50.00"]
    assert "± of one seed: half the 95 % interval" in conditions


def test_a_cell_of_fewer_seeds_than_its_row_has_says_so(make, print_table):
    timed = {"batch": "1", "steps": "10", "subwords_per_second": 50.0, "sentences_per_second": 2.0}
    files = [make("linear", 2, seed=1, speeds=[timed]), make("linear", 4, seed=2), make("linear", 3, seed=3, steps=("1",))]
    text = print_table(*files, make("adaptive", 5), "--baseline", "adaptive")
    one, ten = cells(text.split("less adaptive")[0], "linear, 3 seeds")
    assert "seeds" not in one and ten.startswith(f"{(bleu(2) + bleu(4)) / 2:.2f} ± ") and ten.endswith(" (2 of 3 seeds)")
    one, ten = cells(text.split("less adaptive")[1], "linear, 3 seeds")
    assert "seeds" not in one and ten.endswith(") (2 of 3 seeds)")
    assert cells(text, "batch 1, steps 10") == ["50 (2) (1 of 3 seeds)"]
    text = print_table(*files, make("adaptive", 5), "--baseline", "linear")
    one, ten = cells(text.split("less linear, 3 seeds")[1], "adaptive")
    assert "seeds" not in one and ten.endswith("), less (2 of 3 seeds)")


def test_results_without_kept_sentences_have_no_interval(print_table):
    files = sorted((ROOT / "examples/multi30k_en_de/results/small").glob("*-seed1.json"))
    text = print_table(*files, "--baseline", "linear")
    assert len(files) >= 4
    assert "±" not in text and "(p " not in text
    assert cells(text.split("| bleu test, predicted")[1].split("\n\n")[0], "linear")[0] == "11.51"
    assert cells(text.split("| bleu test, predicted length, less")[1].split("\n\n")[0], "softmax")[0] == "+0.03"


def test_rows_and_columns_stand_in_the_papers_order_whatever_the_order_of_the_files(make, print_table):
    teacher, tried = make("teacher", steps=("beam 4",)), make("linear", 3, steps=("adaptive", "5"), length_beam=5)
    text = print_table(teacher, make("adaptive", 5), tried, make("linear", steps=("10", "2")), make("softmax"))
    assert text.startswith("| bleu valid, predicted length | 1 | 2 | 5 | 10 | adaptive | beam 4 |")
    rows = [line.split(" | ")[0].strip("| ") for line in text.split("\n\n")[0].splitlines()[2:]]
    assert rows == ["softmax", "linear", "linear, length beam 5", "adaptive", "teacher"]


def test_the_table_of_raw_multi30k_is_what_its_results_give(print_table):
    folder = ROOT / "examples/multi30k_en_de/results/small"
    assert print_table(*sorted(folder.glob("*.json"))) == (folder / "table.md").read_text(encoding="utf-8")


def test_the_teacher_has_a_column_of_its_own(make, print_table):
    text = print_table(make("softmax"), make("teacher", steps=("beam 4",)))
    assert "| 1 | 10 | beam 4 |" in text
    assert cells(text, "softmax")[2] == "" and cells(text, "teacher")[:2] == ["", ""] and cells(text, "teacher")[2]


def test_the_papers_numbers_stand_beside_iwslt16_only(make, print_table):
    text = print_table(make("softmax"))
    assert "24.34" not in text and "Lee" not in text
    data = json.loads(make("x").read_text())["data"]
    data = {**data, "corpus": table.PAPER_CORPUS}
    speed = {"split": "valid", "steps": "10", "subwords_per_second": 100.4, "sentences_per_second": 5.2}
    speeds = [{**speed, "batch": "1"}, {**speed, "batch": "1", "steps": "1"}, {**speed, "batch": "64"}]
    beam = {**speed, "batch": "1", "steps": "beam 4", "subwords_per_second": 30.0}
    for number, entry in enumerate(speeds):
        entry["subwords_per_second"] *= 1 + number
    text = print_table(make("softmax", data=data, speeds=speeds), make("teacher", steps=("beam 4",), data=data, speeds=[beam]))
    papers, ours = text.split("\n\n", 1)
    assert cells(papers, "softmax") == [f"{bleu(2):.2f}", "", "100", "24.34", "5104"]
    assert cells(papers, "teacher, beam 4") == [f"{bleu(2):.2f}", "", "30", "", ""]
    assert cells(papers, "adaptive") == ["", "", "", "22.20", "1410"]
    assert cells(ours, "Lee et al. 2018") == ["22.20", "27.11", ""]
    papers, ours = print_table(make("softmax", data=data, steps=("1", "2", "5", "10", "adaptive"))).split("\n\n", 1)
    assert cells(ours, "Lee et al. 2018") == ["22.20", "24.82", "26.58", "27.11", "27.01"]
    theirs = {"linear": ["21.37", "1382"], "momentum": ["22.11", "1398"], "connection": ["22.14", "1403"]}
    assert {name: cells(papers, name)[3:] for name in theirs} == theirs
    text = print_table(make("softmax", data={**data, "corpus": "TED mix en-de: a substitute for IWSLT'16", "substitute": True}))
    assert "24.34" not in text
    assert "24.34" not in print_table(make("softmax", data=data), make("linear"))
    assert "24.34" not in print_table(make("softmax", data={**data, "corpus": "IWSLT'17 en-de, validation on tst2013"}))


def test_rows_are_told_apart_by_what_their_scores_depend_on(make, print_table):
    data = json.loads(make("x").read_text())["data"]
    distilled = {**data, "distilled": True}
    both = [make("linear", data=distilled), make("linear", data=distilled, collapse_repeats=True)]
    text = print_table(*both)
    assert cells(text, "linear") and cells(text, "linear, repeats removed")
    assert "- all rows: distilled" in text
    unknown = make("momentum", data={**data, "corpus": None, "substitute": None, "distilled": None})
    text = print_table(*both, make("linear"), unknown)
    assert cells(text, "momentum, training set unknown")
    assert cells(text, "linear, distilled, repeats removed") and cells(text, "linear, distilled") and cells(text, "linear")
    text = print_table(make("linear"), make("linear", length_beam=2), make("linear", dtype="bfloat16"))
    assert cells(text, "linear") and cells(text, "linear, length beam 2") and cells(text, "linear, bfloat16")


def test_oracle_lengths_have_no_length_beam_and_no_row_twice(make, print_table):
    """Of the same checkpoint plain and with a length beam: the same scores with oracle lengths, others with predicted ones."""

    def scored(name: str, wrong: int, steps: tuple[str, ...], **entries: Any) -> Path:
        ways = [("predicted", s, bleu(wrong)) for s in steps] + [("oracle", s, bleu(7)) for s in steps]
        scores = [{"split": "valid", "lengths": w, "steps": s, "bleu": b, "chrf": 50.0, **SIGNATURES} for w, s, b in ways]
        return make(name, scores=scores, sentence_statistics={}, **entries)

    beam = {"length_beam": 5, "rescored": True}
    files = scored("a", 2, ("1",), **beam), scored("a", 3, ("1", "10")), scored("b", 4, ("1",), **beam)
    text = print_table(*files, "--baseline", "a, length beam 5, re-scored")
    predicted, less, oracle, oracle_less, conditions = text.strip().split("\n\n")
    assert cells(predicted, "a") and cells(predicted, "a, length beam 5, re-scored")
    assert cells(less, "b, length beam 5, re-scored")
    assert cells(oracle, "a") == [f"{bleu(7):.2f}"] * 2 and cells(oracle, "b") == [f"{bleu(7):.2f}", ""]
    assert cells(oracle_less, "b") == ["+0.00"] and len(oracle_less.splitlines()) == 3
    assert "less a |" in oracle_less and "length beam" not in oracle + oracle_less + conditions
    assert "- all rows with predicted lengths: length beam 5, re-scored" in print_table(files[0], files[2])


def test_speeds_stand_in_one_table(make, print_table, tmp_path):
    classes = [{"source_subwords": [1, 10], "sentences": 3, "subwords_per_second": 50.0}]
    speed = {"split": "valid", "steps": "10", "batch": "1", "subwords_per_second": 100.4, "sentences_per_second": 5.2}
    speeds = [{**speed, "batch": "4096 tokens"}, {**speed, "by_length": classes}]
    text = print_table(make("linear", speeds=speeds), make("softmax"), "--plot", tmp_path / "a.png")
    assert cells(text, "batch 1, steps 10") == ["100 (5)"]
    assert text.index("batch 1,") < text.index("batch 4096 tokens,")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_conditions_say_what_the_figures_were_made_with(make, print_table):
    text = print_table(make("linear", max_update=9, training_revisions=["def"]))
    assert "2026-01-02, a processor, 1 threads, best of 9 updates at 7 by revision def, revision abc" in text
    assert "data Multi30k, valid tst2013 (50 sentences)\n" in text
    assert "BLEU nrefs:1|case:mixed" in text
    text = print_table(make("linear", text={"lowercased": True, "tokenized": False}))
    assert "data Multi30k, valid tst2013 (50 sentences), lower-cased\n" in text
    text = print_table(make("linear", text={"lowercased": False, "tokenized": True}))
    assert "data Multi30k, valid tst2013 (50 sentences), scored as tokenised\n" in text


def test_a_training_that_was_stopped_early_is_not_said_to_have_had_all_its_updates(make, print_table):
    text = print_table(make("linear", last_update=8, max_update=20), make("softmax", last_update=9, max_update=9))
    assert "best of 8 of 20 updates at 7" in text and "best of 9 updates at 7" in text


def test_the_training_set_is_named_and_seeds_of_a_row_share_it(make, print_table):
    ours, other = ({"src": "5" * 64, "tgt": digit * 64} for digit in "67")
    files = [make("linear", 2, 1, training_set=ours), make("adaptive", 2, 1, training_set=other)]
    text = print_table(*files)
    assert "training set src 55555555, tgt 66666666\n" in text and "training set src 55555555, tgt 77777777\n" in text
    with pytest.raises(SystemExit, match=r"both of row linear, but differ in training_set \(tgt: 6{64} and 7{64}\)"):
        print_table(*files, make("linear", 5, 2, training_set=other))


def test_results_of_different_test_sets_are_refused(make, print_table):
    data = json.loads(make("x").read_text())["data"]
    other = {**data, "sets": {"valid": {"name": "tst2012", "sentences": 51, "sha256": "bb"}}}
    with pytest.raises(SystemExit, match=r"different valid sets \(50 sentences of tst2013, 51 of tst2012\)"):
        print_table(make("linear"), make("softmax", data=other, sentence_statistics={}))
    as_many = {**data, "sets": {"valid": {**data["sets"]["valid"], "sha256": "bb"}}}
    with pytest.raises(SystemExit, match="different valid sets"):
        print_table(make("linear"), make("softmax", data=as_many))
    with pytest.raises(SystemExit, match="lowercased"):
        print_table(make("linear"), make("softmax", text={"lowercased": True, "tokenized": False}))
    scores = json.loads(make("x").read_text())["scores"]
    newer = [{**score, "bleu_signature": "nrefs:1|case:lc"} for score in scores]
    with pytest.raises(SystemExit, match="other signatures"):
        print_table(make("linear"), make("softmax", scores=newer))
    newer = [{**score, "chrf_signature": "nrefs:1|nc:4"} for score in scores]
    with pytest.raises(SystemExit, match="other signatures"):
        print_table(make("linear"), make("softmax", scores=newer))


def test_results_of_some_of_the_sets_stand_beside_those_of_all(make, print_table):
    result = json.loads(make("linear").read_text())
    sets = {**result["data"]["sets"], "test": {"name": "tst2014", "sentences": 50, "sha256": "bb"}}
    both = {
        "data": {**result["data"], "sets": sets},
        "scores": result["scores"] + [{**score, "split": "test"} for score in result["scores"]],
        "sentence_statistics": {**result["sentence_statistics"], "test": result["sentence_statistics"]["valid"]},
    }
    for files in ((make("a", **both), make("b")), (make("b", 3), make("a", **both))):
        valid, test, _ = print_table(*files).split("\n\n")
        assert cells(valid, "a") and cells(valid, "b") and cells(test, "a") and "| b |" not in test


def test_files_that_are_no_results_are_refused(make, print_table, tmp_path):
    file = tmp_path / "other.json"
    for content in ("", "[]", "{}", '{"name": "x"}'):
        file.write_text(content)
        with pytest.raises(SystemExit, match=r"other\.json: not a result of evaluate\.py"):
            print_table(file)
    scores = json.loads(make("x").read_text())["scores"]
    del scores[1]["bleu"]
    with pytest.raises(SystemExit, match=r"scores\[1\]: no bleu; evaluate the checkpoint anew"):
        print_table(make("linear", scores=scores))
    with pytest.raises(SystemExit, match="No such file"):
        print_table(tmp_path / "none.json")


def test_kept_sentences_that_do_not_fit_the_scores_are_refused(make, print_table):
    with pytest.raises(SystemExit, match="has 2 scores, but sentences of 1"):
        print_table(make("linear", sentence_statistics={"valid": bootstrap.pack([statistics(2)])}))
    short = bootstrap.pack([statistics(2)[:49]] * 2)
    with pytest.raises(SystemExit, match="can't be read for 50 sentences"):
        print_table(make("linear", sentence_statistics={"valid": short}))


def test_seeds_of_a_row_that_differ_in_their_model_or_training_are_refused(make, print_table):
    small, large = {"model": {"layers": 2, "heads": 2}}, {"model": {"layers": 5, "heads": 2}}
    with pytest.raises(SystemExit, match=r"both of row linear, but differ in model \(layers: 2 and 5\); make a table for each"):
        print_table(make("linear", **small), make("linear", seed=2, **large))
    with pytest.raises(SystemExit, match=r"differ in max_update \(7 and 9\)"):
        print_table(make("linear"), make("linear", seed=2, max_update=9))
    print_table(make("linear", updates=3, **small), make("linear", seed=2, **small), make("softmax", max_update=9, **large))
    print_table(make("linear", **small), make("linear", seed=2, model={"layers": 2, "added": True}))


def test_a_row_given_twice_or_an_unknown_baseline_is_refused(make, print_table):
    with pytest.raises(SystemExit, match="both of row linear, seed 1"):
        print_table(make("linear"), make("linear"))
    with pytest.raises(SystemExit, match="both of row linear, seed 1"):
        print_table(make("linear"), make("linear", seed=2), make("linear"))
    beams = make("linear", length_beam=3), make("linear", length_beam=5)
    with pytest.raises(SystemExit, match="several rows; there are: linear, length beam 3; linear, length beam 5"):
        print_table(*beams, "--baseline", "linear")
    with pytest.raises(SystemExit, match="--baseline momentum: no such row; there are: linear"):
        print_table(make("linear"), "--baseline", "momentum")
