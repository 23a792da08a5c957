"""The speed of translating, by a clock and a decoder that are known."""

from argparse import Namespace

import evaluate
import pytest
import torch
from common import translating

CPU = torch.device("cpu")


class Timed:
    """Translates a sentence to as many words as its number says. Its n-th call takes `seconds[n]`."""

    lengths, steps = "predicted", "1"

    def __init__(self, seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.now = list(seconds), 0.0
        monkeypatch.setattr(translating.time, "perf_counter", lambda: self.now)

    def translate(self, samples: list[dict]) -> dict[int, translating.Translation]:
        self.now += self.seconds.pop(0)
        numbers = [number for sample in samples for number in sample["id"].tolist()]
        return {number: translating.Translation(torch.zeros(number), 1) for number in numbers}


def sample(*numbers: int, source: int = 5) -> dict:
    return {"id": torch.tensor(numbers), "net_input": {"src_lengths": torch.tensor([source + 1] * len(numbers))}}


def test_the_speed_is_that_of_the_median_run_after_one_that_warms_up(monkeypatch):
    """Of two batches; the median of the totals 5, 3 and 10 is neither their mean nor the fastest."""
    decoder = Timed([100, 2, 3, 1, 2, 5, 5], monkeypatch)
    found = translating.speed(decoder, [sample(4, 6), sample(8, 2)], CPU, runs=3)
    assert found == {
        "sentences": 4,
        "subwords": 20,
        "subwords_per_second": 4.0,
        "sentences_per_second": 0.8,
        "seconds_of_each_run": [5, 3, 10],
    }


def test_single_sentences_are_told_apart_by_source_words_without_eos(monkeypatch):
    decoder = Timed([100, 2, 4, 2, 4, 2, 4], monkeypatch)
    found = translating.speed(decoder, [sample(6, source=10), sample(8, source=11)], CPU, runs=3)
    classes = [(c["source_subwords"], c["sentences"], c["subwords_per_second"]) for c in found["by_length"]]
    assert classes == [([1, 10], 1, 3.0), ([11, 20], 1, 2.0)]


def test_the_sentences_timed_one_by_one_are_of_all_lengths(monkeypatch):
    """Of ten, shortest first, three are to be timed."""
    timed = []

    def speed(way, samples, device, runs):
        timed.append(samples)
        return {"subwords_per_second": 1.0, "sentences_per_second": 1.0}

    monkeypatch.setattr(evaluate, "speed", speed)
    monkeypatch.setattr(evaluate, "batches", lambda *_, **limits: list(range(10)) if "max_sentences" in limits else ["all"])
    options = Namespace(splits=["valid", "test"], max_tokens=100, speed_sentences=3, speed_runs=3)
    speeds = evaluate.measure_speeds([Timed([], monkeypatch)], None, CPU, options)
    assert [(entry["split"], entry["batch"]) for entry in speeds] == [("test", "1"), ("test", "100 tokens")]
    assert timed == [[0, 4, 8], ["all"]]
