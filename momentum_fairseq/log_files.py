"""`--log-file` without repetition: fairseq 0.12.3 opens the file once more for each epoch and each validation."""

import logging

from fairseq.logging import progress_bar


def log_each_line_once() -> None:
    """Keep fairseq's progress bars to one handler a file, or the n-th validation stands n times in it."""
    logger = progress_bar.logger
    add = logger.addHandler

    def add_once(handler: logging.Handler) -> None:
        files = [x.baseFilename for x in logger.handlers if isinstance(x, logging.FileHandler)]
        if isinstance(handler, logging.FileHandler) and handler.baseFilename in files:
            handler.close()
        else:
            add(handler)

    logger.addHandler = add_once
