"""What fairseq writes to --log-file."""

import logging

from fairseq.logging import progress_bar

import momentum_fairseq  # noqa: F401  (mends it)


def test_a_line_stands_once_in_the_log_however_many_validations_there_were(tmp_path):
    logs = [tmp_path / "train.log", tmp_path / "other.log"]
    handlers = list(progress_bar.logger.handlers)
    for number in range(3):
        bar = progress_bar.progress_bar([1], log_format="simple", log_file=str(logs[0]))
        bar.print({"loss": number}, tag="valid")
    progress_bar.progress_bar([1], log_format="simple", log_file=str(logs[1])).print({"loss": 3}, tag="valid")
    for handler in set(progress_bar.logger.handlers) - set(handlers):
        progress_bar.logger.removeHandler(handler)
        handler.close()
    assert [line.split("loss ")[1] for line in logs[0].read_text().splitlines()] == ["0", "1", "2", "3"]
    assert len(logs[1].read_text().splitlines()) == 1


def test_a_file_that_is_logged_to_already_is_not_held_open_twice(tmp_path):
    one, again = (logging.FileHandler(tmp_path / "train.log") for _ in range(2))
    other = logging.NullHandler()
    for handler in (one, again, other):
        progress_bar.logger.addHandler(handler)
    assert {one, other} <= set(progress_bar.logger.handlers) and again not in progress_bar.logger.handlers
    assert one.stream is not None and again.stream is None
    for handler in (one, other):
        progress_bar.logger.removeHandler(handler)
        handler.close()
