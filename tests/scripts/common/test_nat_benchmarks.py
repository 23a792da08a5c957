"""What benchmarks make of the times that they take, by a clock that is known."""


import pytest
import torch
from common import image_benchmark, nat_benchmarks


def test_calls_take_turns_and_the_first_turn_only_warms_up(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(nat_benchmarks.time, "perf_counter", lambda: now[0])

    def call(name: str, seconds: list[float]):
        def work() -> None:
            order.append(name)
            now[0] += seconds.pop(0)

        return work

    calls = {"a": call("a", [90, 1, 2]), "b": call("b", [80, 3, 5])}
    assert nat_benchmarks.take_turns(calls, 2, torch.device("cpu")) == {"a": [1, 2], "b": [3, 5]}
    assert "".join(order) == "ababab"


def test_a_speed_is_the_median_turns_and_its_ratio_the_median_over_turns():
    """A row that takes half of the baseline's time has twice its speed; the ratio of the medians would be 1.5 here."""
    found = nat_benchmarks.summary([2.0, 1.0, 8.0], [4.0, 3.0, 1.0], subwords=100)
    assert found == {"subwords_per_second": 50.0, "speed_ratio": 2.0, "seconds_of_each_turn": [2.0, 1.0, 8.0]}


def test_an_images_seconds_are_the_places_medians_times_the_values_of_a_part():
    """Milliseconds at two places: medians of 2 and 4, for five values each, of two images."""
    times = [[2.0, 9.0, 1.0], [4.0, 3.0, 5.0]]
    assert image_benchmark.images_per_second(times, batch=2, pixels=10) == pytest.approx(2 / 0.030, rel=1e-3)


def test_a_row_twice_as_quick_as_linear_attention_has_ratio_2():
    times = {"linear": [[4.0, 4.0], [6.0]], "momentum": [[2.0, 8.0], [3.0]], image_benchmark.UNCACHED: [[1.0], [1.0]]}
    assert image_benchmark.over_linear(times, "momentum") == 2.0
    assert image_benchmark.over_linear(times, image_benchmark.UNCACHED) is None
