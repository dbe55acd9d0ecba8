"""The logger of this package, which ``optuna.logging.set_verbosity`` controls."""

from optuna import logging

logger = logging.get_logger("optuna.hypergrad")
