"""What all tests share: processes of one thread each."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported


@pytest.fixture
def sign_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GradientSampler moves by outer steps, unless a test names another strategy."""
    from optuna_hypergrad import GradientSampler

    defaults: Any = GradientSampler.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "strategy", "sign_descent")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Optuna's loggers say, whatever verbosity other tests have set.

    They do not hand on to the loggers that pytest watches.
    """
    optuna = logging.getLogger("optuna")
    optuna.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "optuna"):
        yield caplog
    optuna.removeHandler(caplog.handler)
