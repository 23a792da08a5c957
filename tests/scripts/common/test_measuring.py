"""What the benchmarks measure, by a clock that is known and by memory that is."""

from collections.abc import Callable
from itertools import groupby

import pytest
import torch
from common import measuring

CPU = torch.device("cpu")
MEBIBYTE = 2**20


def test_calls_take_turns_of_ten_milliseconds_and_who_is_first_in_a_turn_is_last_in_the_next(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])

    def call(kind: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            order.append(kind)
            now[0] += seconds

        return work

    found = measuring.time_side_by_side({"softmax": call("softmax", 0.005), "linear": call("linear", 0.001)}, 1e-3, CPU)
    turns = [(kind, len(list(group))) for kind, group in groupby(order)]
    assert turns[:2] == [("softmax", 2), ("linear", 2)]  # to warm up
    assert turns[2:] == [("softmax", 2), ("linear", 20), ("softmax", 4), ("linear", 20), ("softmax", 4), ("linear", 10)]
    assert {kind: result["turns"] for kind, result in found.items()} == {"softmax": 5, "linear": 5}
    assert found["softmax"]["median_ms"] == pytest.approx(5) and found["linear"]["median_ms"] == pytest.approx(1)
    assert found["linear"]["ratio"] == pytest.approx(0.2) and found["softmax"]["ratio"] == 1


def test_a_ratio_is_the_median_over_the_turns_and_not_that_of_the_medians():
    found = measuring.summary([1.0, 2.0, 9.0], [2.0, 8.0, 6.0])
    assert found == {"median_ms": 2.0, "min_ms": 1.0, "iqr_ms": 4.0, "turns": 3, "ratio": 0.5, "min_ratio": 0.5}
    assert "ratio" not in measuring.summary([1.0, 2.0, 9.0], None)


def test_a_parabola_is_less_of_a_line_than_a_line_is():
    assert measuring.r_squared([1, 2, 3], [5, 7, 9]) == pytest.approx(1)
    assert measuring.r_squared([1, 2, 3], [1, 4, 9]) == pytest.approx(48 / 49)
    assert measuring.r_squared([1, 2], [5, 7]) is None and measuring.r_squared([1, 2, 3], [5, 5, 5]) is None


def test_the_peak_is_what_is_held_at_once_and_not_what_was_held_before_or_is_held_in_turn():
    before = torch.ones(8 * MEBIBYTE, dtype=torch.uint8)

    def at_once() -> torch.Tensor:
        first, second = (torch.ones(MEBIBYTE, dtype=torch.uint8) for _ in range(2))
        return before[:1] + first[:1] + second[:1]

    def in_turn() -> None:
        for _ in range(2):
            torch.ones(MEBIBYTE, dtype=torch.uint8)

    assert 2 * MEBIBYTE <= measuring.peak_bytes(at_once, CPU) < 2.01 * MEBIBYTE
    assert MEBIBYTE <= measuring.peak_bytes(in_turn, CPU) < 1.01 * MEBIBYTE
