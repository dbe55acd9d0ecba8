"""What this package logs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Texts(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@contextmanager
def logged() -> Iterator[list[str]]:
    """The texts of all records of our own loggers, tracebacks included."""
    handler, logger = _Texts(), logging.getLogger("optuna.hypergrad")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
