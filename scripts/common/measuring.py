"""Times of calls that take turns, and the memory that a call takes."""

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

BASELINE = "softmax"
WARM_UP, LEAST_TURNS, MOST_TURNS = 2, 5, 400
# A turn lasts at least this long, by repeating the call: the clock and the caches that another kind has filled then weigh little.
LEAST_TURN_SECONDS = 0.01


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_call(call: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """The mean of so many calls, one behind the other."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - start) / repeats


def time_side_by_side(
    calls: dict[str, Callable[[], Any]],
    seconds: float,
    device: torch.device,
    least_turn_seconds: float = LEAST_TURN_SECONDS,
) -> dict[str, dict[str, float]]:
    """Time calls that take turns, for so many seconds in all; who is first in a turn is last in the next.

    Returns:
        What `summary` makes of the turns of each call, beside those of the baseline.
    """
    repeats = {}
    for kind, call in calls.items():
        warm = min(seconds_per_call(call, 1, device) for _ in range(WARM_UP))
        repeats[kind] = max(1, round(least_turn_seconds / warm))
    times: dict[str, list[float]] = {kind: [] for kind in calls}
    end = time.perf_counter() + seconds
    order = list(calls)
    for turn in range(MOST_TURNS):
        if turn >= LEAST_TURNS and time.perf_counter() > end:
            break
        for kind in order:
            times[kind].append(1e3 * seconds_per_call(calls[kind], repeats[kind], device))
        order = [*order[1:], *order[:1]]
    return {kind: summary(times[kind], times.get(BASELINE)) for kind in calls}


def summary(times: list[float], baseline: list[float] | None) -> dict[str, float]:
    """Median, minimum and interquartile range in ms; the ratio to the baseline, median over the turns, and that of the minima."""
    quarter, median, three_quarters = statistics.quantiles(times, n=4, method="inclusive")
    result = {"median_ms": median, "min_ms": min(times), "iqr_ms": three_quarters - quarter, "turns": len(times)}
    if baseline is not None:
        pairs = zip(times, baseline, strict=True)
        result["ratio"] = statistics.median(mine / softmax for mine, softmax in pairs)
        result["min_ratio"] = min(times) / min(baseline)
    return result


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most that torch's allocator held during the call beyond what it held before."""
    call()  # what is kept from a first call on is not the call's own
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints two lines a start otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def r_squared(x: list[int], y: list[int]) -> float | None:
    """How much of y a straight line in x explains; None for fewer than three points."""
    if len(x) < 3 or len(set(y)) == 1:
        return None
    return statistics.correlation(x, y) ** 2


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory, as a GPU's caching allocator does; False where it can't be told to.

    By default it may give memory back at each call and fault it in anew, page by page, in some runs and not in others.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # glibc's M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**30))
