"""Proposals of a Gaussian process: the trials of a study as runs, and points as parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms import surrogate
from optuna_hypergrad.algorithms.coordinates import MAX_DIMENSION, Coordinates, one_hot
from optuna_hypergrad.algorithms.loss_scale import N_SCALE
from optuna_hypergrad.algorithms.ranges import Array, Ranges, SignedLogRanges
from optuna_hypergrad.algorithms.surrogate import Runs, Surrogate
from optuna_hypergrad.reports.arrays import array_names, read_array_gradient
from optuna_hypergrad.reports.objective import read_gradient
from optuna_hypergrad.reports.proposals import Proposal
from optuna_hypergrad.samplers.distributions import ranges_of, schedule_of, to_distribution
from optuna_hypergrad.samplers.studies import violation

MAX_RUNS = 96  # that the process is fitted to, so that asking does not slow down


class Observation(NamedTuple):
    """What a finished trial says about its point."""

    trial: FrozenTrial
    loss: float  # to be minimised; infinite if the trial diverged, was pruned or is infeasible
    gradient: Mapping[str, float]  # its hypergradient, by parameter

    @classmethod
    def of(cls, trial: FrozenTrial, maximize: bool) -> Observation | None:
        """A finished trial; None if it says nothing: it failed, or has no parameters.

        Optuna calls a NaN loss a failure; one with a hypergradient of NaN has diverged.
        """
        if not trial.state.is_finished() or not trial.params:
            return None
        if trial.state == TrialState.FAIL:
            arrays = (read_array_gradient(trial, name) for name in array_names(trial))
            reported = [array for array in arrays if array is not None]
            reported.append(np.array([*(read_gradient(trial) or {}).values()], dtype=float))
            is_finite = all(np.isfinite(part).all() for part in reported)
            return None if is_finite else cls(trial, math.inf, {})
        if violation(trial):
            return cls(trial, math.inf, {})
        value = trial.value if trial.state == TrialState.COMPLETE else None
        loss = math.inf if value is None or not math.isfinite(value) else value
        sign = -1.0 if maximize and math.isfinite(loss) else 1.0
        return cls(trial, sign * loss, read_gradient(trial) or {})


class SearchSpace:
    """Parameters as points of the unit cube.

    Numeric parameters whose names differ only in a number after an underscore at their end, and
    that share a range, are a group, such as the windows of a schedule.

    Args:
        space: The distribution of each parameter.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.space = dict(space)
        groups: dict[tuple[str, BaseDistribution], list[str]] = defaultdict(list)
        self.categorical = [n for n, d in space.items() if isinstance(d, CategoricalDistribution)]
        for name, distribution in space.items():
            if name not in self.categorical:
                groups[schedule_of(name), distribution].append(name)
        ordered = [sorted(names, key=_place) for names in groups.values()]
        self.numeric = [name for names in ordered for name in names]
        self._choices = tuple(
            len(d.choices) for d in space.values() if isinstance(d, CategoricalDistribution)
        )
        self.coordinates = Coordinates(tuple(map(len, ordered)), self._choices)

    @cached_property
    def ranges(self) -> Ranges:
        """Ranges of the numeric parameters."""
        return ranges_of([self.space[name] for name in self.numeric], SignedLogRanges)

    @property
    def n_independent(self) -> int:
        """How many groups and categorical parameters there are."""
        return len(self.coordinates.groups) + len(self._choices)

    def contains(self, trial: FrozenTrial) -> bool:
        """Whether a trial has all parameters, and values inside the ranges."""
        params = trial.params
        return all(
            name in params and _is_in(params[name], distribution)
            for name, distribution in self.space.items()
        )

    def point(self, params: Mapping[str, Any]) -> Array:
        """Parameters as a point, shape (d,)."""
        numeric = self.ranges.to_unit([float(params[name]) for name in self.numeric])
        codes = [self.space[n].to_internal_repr(params[n]) for n in self.categorical]
        return np.concatenate([numeric, one_hot([int(code) for code in codes], self._choices)])

    def rounded(self, point: Array) -> Array:
        """The point of the parameters that a point becomes."""
        return self.point(self.params(point))

    def slopes(self, params: Mapping[str, Any], gradient: Mapping[str, float]) -> Array:
        """A hypergradient by the point, shape (d,); NaN where unknown."""
        own = [gradient.get(name, math.nan) for name in self.numeric]
        values = [float(params[name]) for name in self.numeric]
        numeric = self.ranges.unit_gradient(values, own)
        return np.concatenate([numeric, np.full(sum(self._choices), math.nan)])

    def params(self, point: Array) -> dict[str, Any]:
        """A point as parameters."""
        values = self.ranges.from_unit(point[: len(self.numeric)]).tolist()
        found: dict[str, Any] = {
            name: to_distribution(value, self.space[name])
            for name, value in zip(self.numeric, values, strict=True)
        }
        at = len(self.numeric)
        for name, n in zip(self.categorical, self._choices, strict=True):
            found[name] = self.space[name].to_external_repr(int(np.argmax(point[at : at + n])))
            at += n
        return found

    def points(self, trials: Sequence[FrozenTrial]) -> Array:
        """Trials inside the space as points, shape (n, d)."""
        found = [self.point(trial.params) for trial in trials]
        return np.array(found).reshape(len(found), self.coordinates.dimension)

    def runs(self, observations: Sequence[Observation]) -> Runs:
        """Observations inside the space as runs."""
        points = self.points([one.trial for one in observations])
        slopes = [self.slopes(one.trial.params, one.gradient) for one in observations]
        losses = np.array([one.loss for one in observations], dtype=float)
        return Runs(points, losses, np.array(slopes).reshape(points.shape))


def chosen(observations: Sequence[Observation]) -> list[Observation]:
    """The observations that the process is fitted to: all, or the first, the best and the latest.

    The first are spread over the space and give the losses their scale.
    """
    if len(observations) <= MAX_RUNS:
        return [*observations]
    half = MAX_RUNS // 2
    first, older = [*observations[:N_SCALE]], observations[N_SCALE:-half]
    order = sorted(range(len(older)), key=lambda i: older[i].loss)[: half - N_SCALE]
    return first + [older[i] for i in sorted(order)] + [*observations[-half:]]


class Model:
    """What a study's trials say about a search space.

    Args:
        space: The parameters that are searched.
        observations: The finished trials of the study.
    """

    def __init__(self, space: SearchSpace, observations: Sequence[Observation]) -> None:
        self.space, self.observations = space, observations

    @cached_property
    def _fitted(self) -> list[Observation]:
        return [one for one in chosen(self.observations) if self.space.contains(one.trial)]

    @cached_property
    def _surrogate(self) -> Surrogate:
        space = self.space
        return Surrogate(space.runs(self._fitted), space.coordinates, space.rounded)

    @property
    def n_first(self) -> int:
        """How many trials are spread over the space before the process decides."""
        return self._surrogate.n_first

    @property
    def knows_little(self) -> bool:
        """Whether trials are spread over the space: at first, and while losses are the same."""
        return self._surrogate.knows_little

    @property
    def n_losses(self) -> int:
        """How many losses the process is fitted to."""
        return len(self._fitted)

    @property
    def n_slopes(self) -> int:
        """How many hypergradients there are of these trials; exploded ones do not count."""
        return sum(bool(one.gradient) for one in self._fitted)

    def propose(
        self, running: Sequence[FrozenTrial], asking: Sequence[Proposal], own: Proposal
    ) -> dict[str, Any]:
        """The parameters of a trial.

        Args:
            running: Trials whose points are being evaluated, or were without a result.
            asking: Earlier trials of the process whose parameters are not stored yet. Each is taken
                to be where it is proposed, so that workers that ask at once get different points.
            own: The decision about the trial.
        """
        points = self._pending(running)
        for one in asking:
            point = self._surrogate.next_point(points, one.seed, one.trial)
            points = np.vstack([points, self.space.rounded(point)])
        return self.space.params(self._surrogate.next_point(points, own.seed, own.trial))

    def repeats(self, running: Sequence[FrozenTrial], number: int) -> bool:
        """Whether a trial repeats the best point."""
        return self._surrogate.repetition(self._pending(running), number) is not None

    def _pending(self, running: Sequence[FrozenTrial]) -> Array:
        return self.space.points([trial for trial in running if self.space.contains(trial)])

    def wants_hypergradient(self, n_asked: int) -> bool:
        """Whether the hypergradient of the next trial is worth its price.

        Args:
            n_asked: How many trials reported one, or were to.
        """
        if not self.space.space:
            return False
        return self._surrogate.worth_hypergradient(len(self.observations), n_asked)

    def recommended(self) -> FrozenTrial | None:
        """The trial with the best expected loss; None while there are too few."""
        is_possible = self.space.space and self.space.n_independent <= MAX_DIMENSION
        if not is_possible or len(self._fitted) < surrogate.FEWEST:
            return None
        return self._fitted[self._surrogate.best_run()].trial

    def expected_loss(self, trial: FrozenTrial) -> float:
        """The loss that is expected at a trial's point; to be minimised, as in observations."""
        return self._surrogate.expected_loss(self.space.point(trial.params))


def _is_in(value: Any, distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):  # else it has no internal representation
        return value in distribution.choices
    return distribution._contains(distribution.to_internal_repr(value))


def _place(name: str) -> tuple[int, str]:
    index = name.rpartition("_")[2]
    return (int(index), name) if index.isdecimal() else (-1, name)
