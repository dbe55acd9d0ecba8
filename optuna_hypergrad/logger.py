"""The logger of this package."""

from __future__ import annotations

import logging

NAME = "optuna.hypergrad"


def get_logger() -> logging.Logger:
    """A child of Optuna's own, so that ``optuna.logging.set_verbosity`` and its relatives rule."""
    from optuna import logging as optuna_logging

    return optuna_logging.get_logger(NAME)
