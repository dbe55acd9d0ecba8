"""The trial whose arrays are expected to do best in another training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from optuna_hypergrad.algorithms.array_descent import smoothed
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.arrays.space import Space
from optuna_hypergrad.reports.arrays import array_names, read_array


def best_neighbourhood(
    best: FrozenTrial, trials: Sequence[FrozenTrial], maximize: bool
) -> FrozenTrial:
    """Of the trials that have the arrays of the best one, that with the best smoothed value.

    Args:
        best: The best trial of a study.
        trials: Its complete trials.
        maximize: Whether larger values are better.

    Raises:
        StoredDataError: If the stored data is damaged.
    """
    spaces, _ = _arrays(best)
    points, losses, comparable = list[Array](), list[float](), list[FrozenTrial]()
    for trial in trials:
        own_spaces, point = _arrays(trial)
        if own_spaces == spaces and trial.value is not None and math.isfinite(trial.value):
            points.append(point)
            losses.append(-trial.value if maximize else trial.value)
            comparable.append(trial)
    return comparable[int(np.argmin(smoothed(np.stack(points), np.array(losses))))]


def _arrays(trial: FrozenTrial) -> tuple[dict[str, Space], Array]:
    """The spaces of a trial's arrays, and all their entries as fractions of the ranges."""
    spaces, parts = dict[str, Space](), [np.empty(0)]
    for name in sorted(array_names(trial)):
        stored = read_array(trial, name)
        if stored is not None:
            space = spaces[name] = Space(stored.values.shape, stored.low, stored.high, stored.log)
            parts.append(space.ranges.to_unit(stored.values.ravel().astype(float)))
    return spaces, np.concatenate(parts)
