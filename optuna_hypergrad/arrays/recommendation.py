"""The trial whose arrays are expected to do best in another training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms.array_descent import smoothed
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.arrays.space import Space
from optuna_hypergrad.reports.arrays import array_names, read_array


def best_neighbourhood(trials: Sequence[FrozenTrial], losses: Sequence[float]) -> FrozenTrial:
    """The complete trial with the smallest smoothed loss.

    Only trials are compared that have the arrays of the best one, and its other parameters: where
    a sampler draws these, that is the best trial alone.

    Args:
        trials: Finished trials of a study, of which the best one has arrays.
        losses: What is minimised, infinite where a trial diverged; finite for one at least.

    Raises:
        StoredDataError: If the stored data is damaged.
    """
    spaces, others, _ = _parts(trials[int(np.argmin(losses))])
    points, own, comparable = list[Array](), list[float](), list[FrozenTrial]()
    for trial, loss in zip(trials, losses, strict=True):
        own_spaces, own_others, point = _parts(trial)
        if (own_spaces, own_others) == (spaces, others):
            points.append(point)
            own.append(loss)
            comparable.append(trial)
    found = smoothed(np.stack(points), np.array(own))
    complete = [i for i, t in enumerate(comparable) if t.state == TrialState.COMPLETE]
    return comparable[min(complete, key=lambda i: (found[i], own[i]))]


def _parts(trial: FrozenTrial) -> tuple[dict[str, Space], Mapping[str, Any], Array]:
    """The spaces of a trial's arrays, its other parameters, and its entries within the ranges."""
    spaces, parts = dict[str, Space](), [np.empty(0)]
    for name in sorted(array_names(trial)):
        stored = read_array(trial, name)
        if stored is not None:
            space = spaces[name] = Space(stored.values.shape, stored.low, stored.high, stored.log)
            parts.append(space.ranges.to_unit(stored.values.ravel().astype(float)))
    others = {name: value for name, value in trial.params.items() if name not in spaces}
    return spaces, others, np.concatenate(parts)
