"""Processes that don't outlive the one that started them, not even where it is killed."""

import os
from multiprocessing import parent_process
from threading import Thread


def end_with_parent() -> None:
    """End this process once its parent has ended; the initialiser of a pool, whose processes would wait for work for ever."""
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent_process().join()
    os._exit(1)
