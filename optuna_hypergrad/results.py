"""What a study has found, as schedules to take away.

The schedules of one trial.

What a student of a population lived through, as schedules of one long training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from optuna.distributions import FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.arguments import check_kind, checked_count
from optuna_hypergrad.reports import Shape, StoredDataError, read_restored, read_shapes
from optuna_hypergrad.reports.attributes import SCHEDULES, reading
from optuna_hypergrad.samplers.population.lineage import SegmentRecord, lineage
from optuna_hypergrad.samplers.ranking import violation
from optuna_hypergrad.schedules import Form, Schedule, Schedules, parameter_names
from optuna_hypergrad.schedules.forms import interpolate

__all__ = ["best_schedules", "replay"]


def best_schedules(study: Study, trial: int | None = None) -> Schedules:
    """The schedules of the best trial: every float hyperparameter, by name.

    What ``suggest_schedule`` suggested comes back with its windows, form and scale; any other
    float parameter is a schedule of one value. Integers and categories are no schedules; they are
    in ``study.best_params``. The best trial of a population is only the last segment of its best
    student: see ``replay``.

    Args:
        study: A study of any sampler.
        trial: Number of another complete or pruned trial; by default the best one.

    Raises:
        ValueError: If there is no such trial, or none is complete and feasible, or several
            objectives leave open which is the best.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import best_schedules, suggest_schedule
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study()
        >>> study.enqueue_trial({"lr_0": 0.5, "lr_1": 0.1, "momentum": 0.9})
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=2)
        ...     return lr.at(0, 10) + trial.suggest_float("momentum", 0.0, 1.0)
        >>> study.optimize(objective, n_trials=1)
        >>> best_schedules(study).at(9, steps=10)
        {'lr': 0.1, 'momentum': 0.9}
    """
    check_kind("study", study, Study, "an Optuna study")
    chosen = _best(study) if trial is None else _numbered(study, trial)
    return schedules_of(chosen, chosen.params)


def schedules_of(trial: FrozenTrial, params: Mapping[str, Any]) -> Schedules:
    """The schedules that a trial suggested, of these values for its parameters.

    Raises:
        StoredDataError: If its parameters cannot make up the schedules that it says it has.
    """
    floats = {n: d for n, d in trial.distributions.items() if isinstance(d, FloatDistribution)}
    with reading(trial.number, SCHEDULES):
        shaped = [_shaped(name, s, floats, params) for name, s in read_shapes(trial).items()]
    single = {n: Schedule(n, [params[n]], log=d.log) for n, d in floats.items()}
    owner = single | {name: schedule for schedule in shaped for name in schedule.names}
    for schedule in shaped:
        if len(schedule.names) > 1 and schedule.name in single:
            both = f"both a schedule and a parameter {schedule.name!r}"
            raise ValueError(f"study: trial {trial.number} has {both}; rename one.")
    return Schedules(dict.fromkeys(owner.values()))


def _shaped(
    name: str, shape: Shape, floats: Mapping[str, FloatDistribution], params: Mapping[str, Any]
) -> Schedule:
    names = parameter_names(name, shape.size)
    missing = [parameter for parameter in names if parameter not in floats]
    if missing:
        raise ValueError(f"{name}: the trial has no float {missing[0]!r}")
    form = cast("Form", shape.form)  # the schedule checks it
    return Schedule(name, [params[parameter] for parameter in names], form, floats[names[0]].log)


def _best(study: Study) -> FrozenTrial:
    if len(study.directions) > 1:
        count = len(study.directions)
        raise ValueError(f"study: which trial is best, with {count} objectives? Name one: trial=….")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise ValueError("study: no trial has completed.")
    if all(violation(trial) for trial in complete):
        raise ValueError("study: no complete trial is feasible. Name one: trial=….")
    return study.best_trial


def _numbered(study: Study, number: int) -> FrozenTrial:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    for trial in trials:
        if trial.number == number:
            return trial
    raise ValueError(f"trial: {number} is not the number of a complete or pruned trial.")


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
    return interpolate(left, right, step / steps, began.log) if left != right else left


def _segment(trial: FrozenTrial, ancestor: SegmentRecord) -> _Segment:
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


def _felt(path: Sequence[SegmentRecord], trials: Sequence[FrozenTrial]) -> list[SegmentRecord]:
    """The segments of a lineage that the student's weights went through."""
    felt: list[SegmentRecord] = []
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
