"""How windows of schedules are told apart where each has a line over outer steps."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_hypergrad.visualization.charts.hypers import Hyper
from optuna_hypergrad.visualization.charts.marks import Scale

COLUMNS = 3
MOST_WINDOWS = 12  # with a line each
MOST_STEPS, LEAST_STEPS, MOST_POINTS = 300, 40, 4000

SCALE = Scale("window, as a fraction of training", 0.0, 1.0)


def most_steps(hypers: Sequence[Hyper]) -> int:
    """How many outer steps are drawn at most, so that figures stay small where they are stored."""
    n_lines = sum(min(len(hyper.parameters), MOST_WINDOWS) for hyper in hypers)
    return max(LEAST_STEPS, min(MOST_STEPS, MOST_POINTS // max(n_lines, 1)))
