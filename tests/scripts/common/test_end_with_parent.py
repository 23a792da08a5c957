"""Processes that a killed run leaves behind: none."""

import os
import time
from functools import partial
from multiprocessing import get_context
from select import select

from common.sequence_sets import generate_set


def say_and_work(end: int, number: int) -> None:
    """A block that is never done."""
    os.write(end, b".")
    time.sleep(60)


def test_the_processes_that_generate_a_set_end_where_the_run_is_killed(tmp_path):
    """A pipe is at its end once nobody is left who could write."""
    read, write = os.pipe()
    arguments = tmp_path / "set", {"counts": [1, 1, 1]}, 2, 2, partial(say_and_work, write), 1, 2
    run = get_context("fork").Process(target=generate_set, args=arguments)
    run.start()
    os.close(write)
    assert os.read(read, 1) == b"."
    run.kill()
    run.join()
    said = b"."
    while said and select([read], [], [], 10)[0]:
        said = os.read(read, 1)
    os.close(read)
    assert said == b"", "a process is still there"
