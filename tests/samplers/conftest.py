"""Log lines, for the tests of both samplers."""

import logging
from collections.abc import Iterator

import optuna
import pytest


class Lines(logging.Handler):
    """Collects messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def logged(level: int) -> Iterator[list[str]]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(level)
    handler = Lines()
    logger = logging.getLogger("optuna.hypergrad")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the package has logged so far at INFO and above."""
    yield from logged(logging.INFO)


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """What the package has logged so far at WARNING and above."""
    yield from logged(logging.WARNING)
