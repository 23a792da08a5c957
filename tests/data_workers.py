"""The processes that load data: whether they end."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.connection import wait


@contextmanager
def all_ended() -> Iterator[None]:
    """Assert that every process started within ends within 2 s of its end.

    Sentinels tell, not `is_alive`: where fairseq's thread has just reaped a process, that takes it for living.
    """
    before = set(active_children())
    yield
    workers = set(active_children()) - before
    for worker in workers:
        assert wait([worker.sentinel], timeout=2), f"{worker.name} goes on"
