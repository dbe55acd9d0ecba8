"""What a study has found, as schedules to take away."""

from optuna_hypergrad.recall.best import best_schedules
from optuna_hypergrad.recall.lives import replay

__all__ = ["best_schedules", "replay"]
