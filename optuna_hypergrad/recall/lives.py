"""What a student of a population lived through, as schedules of one long training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from optuna.distributions import FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import checked_count
from optuna_hypergrad.recall.best import schedules_of
from optuna_hypergrad.reports import StoredDataError, read_restored
from optuna_hypergrad.samplers.lineage import Ancestor, lineage
from optuna_hypergrad.schedules import Schedule, Schedules
from optuna_hypergrad.schedules.forms import blended


def replay(study: Study, trial: int | None = None, *, cuts: int = 10) -> Schedules:
    """The schedules that a student of a population lived through, from its first ancestor on.

    Training once with them, from the weights that the first ancestor began with, repeats what the
    population did for this student: ``len(lineage(study, trial))`` segments, which are taken to be
    equally long. A hyperparameter has one window a segment. Where students refined it within a
    segment, or it moved there from knot to knot, each segment is cut into several windows, whose
    values lie on the way from what it began with to what it ended with, taken in the middle of the
    window: a straight line, or a geometric one in log ranges. This is as near as what is stored
    allows; the values at every step are not.

    Segments that left no trace, because their checkpoint was lost and an older one restored, are
    left out.

    Args:
        study: A study of a ``PopulationSampler``.
        trial: Number of the segment that the student's life ends with; by default the best one.
        cuts: How many windows a segment is cut into where its values moved; of a schedule of
            several windows each.

    Raises:
        ValueError: If no such trial is a finished segment of a student, or a hyperparameter is
            missing in some of the segments.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, lineage, replay
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=3))
        >>> study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=9)
        >>> lr = replay(study, 8)["lr"]
        >>> list(lr.values) == [ancestor.params["lr"] for ancestor in lineage(study, 8)]
        True
    """
    checked_count("cuts", cuts)
    path = lineage(study, trial)
    trials = study.get_trials(deepcopy=False)
    segments = [_segment(trials[ancestor.trial], ancestor) for ancestor in _felt(path, trials)]
    names = dict.fromkeys(name for segment in segments for name in segment.began)
    return Schedules(_joined(name, segments, cuts) for name in names)


class _Segment(NamedTuple):
    """What a segment trained with."""

    trial: int
    began: Schedules
    ended: Schedules

    def moves(self, name: str) -> bool:
        """Whether a hyperparameter changes inside of a window."""
        began = self.began[name]
        return began != self.ended[name] or began.form != "constant"

    def values(self, name: str, windows: int) -> list[float]:
        """The values in the middle of each of some windows."""
        began, ended = self.began[name], self.ended[name]
        return [_between(began, ended, 2 * i + 1, 2 * windows) for i in range(windows)]


def _between(began: Schedule, ended: Schedule, step: int, steps: int) -> float:
    """The value at a step of a segment that moves from one schedule to another."""
    left, right = began.at(step, steps), ended.at(step, steps)
    return blended(left, right, step / steps, began.log) if left != right else left


def _segment(trial: FrozenTrial, ancestor: Ancestor) -> _Segment:
    ended = {name: _reached(trial, name, value) for name, value in ancestor.ended.items()}
    began = schedules_of(trial, trial.params)
    return _Segment(trial.number, began, schedules_of(trial, {**trial.params, **ended}))


def _reached(trial: FrozenTrial, name: str, value: Any) -> Any:
    """What a parameter ended with, inside of its range as for the next segment; a refined value
    that is not finite is none."""
    distribution = trial.distributions.get(name)
    if not isinstance(distribution, FloatDistribution):
        return value
    if not math.isfinite(value):
        return trial.params[name]
    return min(max(value, distribution.low), distribution.high)


def _joined(name: str, segments: Sequence[_Segment], cuts: int) -> Schedule:
    """One schedule of a hyperparameter over all segments."""
    for segment in segments:
        if name not in segment.began:
            raise ValueError(f"study: trial {segment.trial} of the lineage ran without {name!r}.")
    windows = math.lcm(*(segment.began[name].windows for segment in segments))
    if any(segment.moves(name) for segment in segments):
        windows *= cuts
    values = [value for segment in segments for value in segment.values(name, windows)]
    return Schedule(name, values, log=all(segment.began[name].log for segment in segments))


def _felt(path: Sequence[Ancestor], trials: Sequence[FrozenTrial]) -> list[Ancestor]:
    """The segments of a lineage that the student's weights went through."""
    felt: list[Ancestor] = []
    for ancestor in path:
        restored = read_restored(trials[ancestor.trial])
        if restored is not None:
            numbers = [earlier.trial for earlier in felt]
            if restored not in numbers:
                message = f"restored trial {restored}, which is none of its ancestors {numbers}."
                raise StoredDataError(f"trial {ancestor.trial} {message}")
            del felt[numbers.index(restored) + 1 :]
        felt.append(ancestor)
    return felt
