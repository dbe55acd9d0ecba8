"""The logger of this package."""

from __future__ import annotations

import logging

from optuna import logging as optuna_logging


def get_logger() -> logging.Logger:
    """Return a child of Optuna's logger, which ``optuna.logging.set_verbosity`` controls."""
    return optuna_logging.get_logger("optuna.hypergrad")
