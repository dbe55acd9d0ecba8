"""What the stored studies of the arena say: losses on fresh seeds, and ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import optuna
from catalogue import JOBS
from cells import BUDGETS, JUDGED, PLAIN_SECONDS, Cell
from numpy.typing import NDArray
from scipy.stats import rankdata

from samplers import SAMPLERS

FEW = 10  # dimensions: up to this many jobs are small
RESAMPLES = 2000


class Score(NamedTuple):
    """A job with a sampler at a budget: one entry for each seed of the sampler."""

    losses: list[float]  # on test data, the mean of the fresh seeds
    accuracies: list[float]
    best_values: list[float]  # in the study
    trials: list[int]

    @property
    def mean(self) -> float:
        """Mean of the test losses."""
        return fmean(self.losses)

    @property
    def error(self) -> float:
        """Standard error of the mean over seeds; NaN of a single one."""
        return standard_error(self.losses)


def standard_error(losses: list[float]) -> float:
    """Of the mean; NaN of a single one."""
    n = len(losses)
    return stdev(losses) / math.sqrt(n) if n > 1 else math.nan


Scores = dict[str, dict[str, dict[str, Score]]]  # by job, sampler and budget


def read(storage: str) -> tuple[Scores, dict[str, float]]:
    """The scores of all studies, and the CPU seconds of a plain training by job."""
    scores: Scores = {job: {} for job in JOBS}
    seconds: dict[str, list[float]] = {}
    for name in sorted(optuna.get_all_study_names(storage)):
        cell = Cell.of(name)
        if cell.job not in JOBS or cell.sampler not in SAMPLERS:
            continue
        study = optuna.load_study(study_name=name, storage=storage)
        of_trials = (trial.user_attrs.get(PLAIN_SECONDS) for trial in study.get_trials())
        seconds.setdefault(cell.job, []).extend(s for s in of_trials if s is not None)
        for budget, one in study.user_attrs.get(JUDGED, {}).items():
            of_sampler = scores[cell.job].setdefault(cell.sampler, {})
            score = of_sampler.setdefault(budget, Score([], [], [], []))
            score.losses.append(fmean(one["losses"]))
            score.accuracies.extend([fmean(one["accuracies"])] if one["accuracies"] else [])
            score.best_values.append(float(one["best_value"]))
            score.trials.append(int(one["trials"]))
    kept = {job: _in_order(by_sampler) for job, by_sampler in scores.items() if by_sampler}
    return kept, {job: float(np.median(found)) for job, found in seconds.items() if found}


def _in_order(by_sampler: Mapping[str, Any]) -> dict[str, Any]:
    return {name: by_sampler[name] for name in SAMPLERS if name in by_sampler}


def budgets(scores: Scores) -> list[str]:
    """The budgets to show, the smallest first: the usual ones, or if none was judged, all."""
    found = {b for job in scores.values() for by_budget in job.values() for b in by_budget}
    usual = found & {f"{budget:g}" for budget in BUDGETS}
    return sorted(usual or found, key=float)


class Rank(NamedTuple):
    """Mean rank of a sampler over the jobs it ran on, with a 90 % interval."""

    mean: float
    low: float
    high: float
    jobs: int


def ranks(scores: Scores, jobs: Iterable[str], budget: str) -> dict[str, Rank]:
    """Mean ranks by the mean test loss, 1 is best; the interval is a bootstrap over seeds.

    A job counts if several samplers ran on it, and a sampler is ranked among those of the job.
    """
    rng = np.random.default_rng(0)
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    for job in jobs:
        own = {name: by[budget] for name, by in scores.get(job, {}).items() if budget in by}
        if len(own) < 2:
            continue
        means = np.array([_resampled(score.losses, rng) for score in own.values()])
        for name, row in zip(own, rankdata(means, axis=0), strict=True):
            drawn.setdefault(name, []).append(row)
    found = {}
    for name in _in_order(drawn):
        mean = np.mean(drawn[name], axis=0)  # over jobs; its first entry is of all seeds
        low, high = np.quantile(mean[1:], [0.05, 0.95])
        found[name] = Rank(float(mean[0]), float(low), float(high), len(drawn[name]))
    return found


def _resampled(losses: list[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """The mean, then means of seeds drawn with replacement."""
    chosen = rng.integers(len(losses), size=(RESAMPLES, len(losses)))
    return np.concatenate([[fmean(losses)], np.array(losses)[chosen].mean(1)])
