"""The schedules that a study has found: of its best trial, or of a whole lineage."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from optuna.distributions import FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.arguments import check_kind, checked_count
from optuna_hypergrad.reports.arrays import array_names
from optuna_hypergrad.reports.attributes import SCHEDULES, StoredDataError, reading
from optuna_hypergrad.reports.objective import Shape, read_shapes
from optuna_hypergrad.reports.segments import read_restored
from optuna_hypergrad.samplers.gradient.recommendation import recommendation
from optuna_hypergrad.samplers.population.lineage import SegmentRecord, lineage
from optuna_hypergrad.samplers.studies import check_one_objective, violation
from optuna_hypergrad.schedules import Form, Schedule, Schedules, interpolate, parameter_names

__all__ = ["best_schedules", "lineage_schedules", "recommended"]


def best_schedules(study: Study, trial: int | None = None) -> Schedules:
    """The schedules of the best trial: every float hyperparameter, by name.

    What ``suggest_schedule`` suggested comes back with its windows, form and scale; any other
    float parameter is a schedule of one value. Integers and categories are not included, see
    ``study.best_params``, nor are arrays: ``suggest_array(study.best_trial, …)`` returns them. The
    best trial of a population is only the last segment of its lineage: see ``lineage_schedules``.

    Args:
        study: A study of any sampler.
        trial: Number of another complete or pruned trial; by default the best one.

    Raises:
        ValueError: If there is no such trial, none is complete and feasible, or the study has
            several objectives and ``trial`` is not given.
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


def recommended(study: Study) -> FrozenTrial:
    """The trial whose hyperparameters are expected to do best in another training.

    The best trial of a noisy study is the luckiest one. This is the first trial at the point, among
    the best quarter of the points, with the smallest sum of the mean and the standard deviation of
    a Gaussian process over losses and reported hypergradients (96 trials at most), so that
    neighbours count, too. Only trials that have the parameters of the best trial are compared.
    Works for studies of any sampler; of fewer than five complete trials, or with more than 64
    groups of parameters, it is ``study.best_trial``. Of trials with arrays, which the process does
    not model, it is the one with the best value after averaging over trials with similar arrays and
    the same other parameters.

    Args:
        study: A study with one objective.

    Raises:
        ValueError: If the study has several objectives, or no trial is complete and feasible.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, recommended, trial_seed
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     noise = (trial_seed(trial) % 1000) / 10_000
        ...     return trial.suggest_float("x", -1, 1) ** 2 + noise
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=20)
        >>> abs(recommended(study).params["x"]) < 0.2
        True
    """
    check_one_objective(study)
    best = _best(study)
    found = recommendation(study)
    return best if found is None else copy.deepcopy(found.trial)


def schedules_of(trial: FrozenTrial, params: Mapping[str, Any]) -> Schedules:
    """The schedules that a trial suggested, of these values for its parameters.

    Raises:
        StoredDataError: If its parameters do not fit the stored shapes of its schedules.
    """
    arrays = array_names(trial)
    floats = {
        name: distribution
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, FloatDistribution) and name not in arrays
    }
    with reading(trial.number, SCHEDULES):
        shaped = [_shaped(name, s, floats, params) for name, s in read_shapes(trial).items()]
    single = {n: Schedule(n, [params[n]], log=d.log) for n, d in floats.items()}
    for schedule in shaped:
        if len(schedule.names) > 1 and schedule.name in single:
            both = f"both a schedule and a parameter {schedule.name!r}"
            raise ValueError(f"study: trial {trial.number} has {both}; rename one.")
    owner = single | {name: schedule for schedule in shaped for name in schedule.names}
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
        raise ValueError(
            f"study: with {count} objectives no trial is the best; pass trial=<number>."
        )
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise ValueError("study: no trial has completed.")
    if all(violation(trial) for trial in complete):
        raise ValueError("study: no complete trial is feasible; pass trial=<number>.")
    return study.best_trial


def _numbered(study: Study, number: int) -> FrozenTrial:
    for trial in study.get_trials(False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        if trial.number == number:
            return trial
    raise ValueError(f"trial: {number} is not the number of a complete or pruned trial.")


def lineage_schedules(study: Study, trial: int | None = None, *, cuts: int = 10) -> Schedules:
    """The schedules of a population that led to one of its segments, from the first on.

    Training once with them, from the weights that the first segment started with, repeats what the
    population did: ``len(lineage(study, trial))`` segments, which are taken to be equally long,
    without those whose checkpoint was lost. A hyperparameter has one window a segment. Where it was
    refined within a segment, or moves from knot to knot, each segment is cut into several windows,
    whose values are interpolated between its start and its end: linearly, or geometrically in log
    ranges. The values at every step are not stored.

    Args:
        study: A study of a ``PopulationSampler``.
        trial: Number of the last segment; by default the best one.
        cuts: The number of windows that a segment is cut into where its values moved; with a
            schedule of several windows, each of them.

    Raises:
        ValueError: If no such trial is a finished segment, or a segment lacks a hyperparameter of
            the others.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, lineage, lineage_schedules
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=3))
        >>> study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=9)
        >>> lr = lineage_schedules(study, 8)["lr"]
        >>> list(lr.values) == [segment.params["lr"] for segment in lineage(study, 8)]
        True
    """
    checked_count("cuts", cuts)
    path, trials = lineage(study, trial), study.get_trials(deepcopy=False)
    segments: list[_Segment] = []
    for record in _restored(path, trials):
        own = trials[record.trial]
        ended = schedules_of(own, _ended_inside(own, record))
        segments.append(_Segment(own.number, schedules_of(own, own.params), ended))
    names = dict.fromkeys(name for segment in segments for name in segment.started)
    return Schedules(_joined(name, segments, cuts) for name in names)


def replay(study: Study, trial: int | None = None, *, cuts: int = 10) -> Schedules:
    """The old name of ``lineage_schedules``; the next version removes it."""
    message = "replay is now called lineage_schedules; the next version removes the old name."
    warnings.warn(message, FutureWarning, stacklevel=2)
    return lineage_schedules(study, trial, cuts=cuts)


class _Segment(NamedTuple):
    trial: int
    started: Schedules
    ended: Schedules


def _ended_inside(trial: FrozenTrial, record: SegmentRecord) -> dict[str, Any]:
    """Parameters at the end of a segment as the next one takes them: in range, if finite."""
    ended: dict[str, Any] = dict(trial.params)
    for name, value in record.ended.items():
        distribution = trial.distributions.get(name)
        if not isinstance(distribution, FloatDistribution):
            ended[name] = value
        elif math.isfinite(value):
            ended[name] = min(max(value, distribution.low), distribution.high)
    return ended


def _joined(name: str, segments: Sequence[_Segment], cuts: int) -> Schedule:
    """One schedule of a hyperparameter over all segments."""
    for segment in segments:
        if name not in segment.started:
            raise ValueError(f"study: trial {segment.trial} of the lineage ran without {name!r}.")
    pairs = [(segment.started[name], segment.ended[name]) for segment in segments]
    windows = math.lcm(*(first.windows for first, _ in pairs))
    if any(first != last or first.form != "constant" for first, last in pairs):
        windows *= cuts
    values: list[float] = []
    for first, last in pairs:
        for step in range(1, 2 * windows, 2):  # in the middle of each window
            begin, end = first.at(step, 2 * windows), last.at(step, 2 * windows)
            fraction = step / (2 * windows)
            values.append(begin if begin == end else interpolate(begin, end, fraction, first.log))
    return Schedule(name, values, log=all(first.log for first, _ in pairs))


def _restored(path: Sequence[SegmentRecord], trials: Sequence[FrozenTrial]) -> list[SegmentRecord]:
    """The segments of a lineage whose checkpoint the next one restored."""
    found: list[SegmentRecord] = []
    for record in path:
        restored = read_restored(trials[record.trial])
        if restored is not None:
            numbers = [earlier.trial for earlier in found]
            if restored not in numbers:
                message = f"restored trial {restored}, which is none of its ancestors {numbers}."
                raise StoredDataError(f"trial {record.trial} {message}")
            del found[numbers.index(restored) + 1 :]
        found.append(record)
    return found
