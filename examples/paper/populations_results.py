"""What the stored cells of populations.py say."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from copy import deepcopy
from statistics import fmean
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState
from populations_segment import MEASURED, MUTATED, SECONDS

from optuna_hypergrad import students

SETTINGS, ENVIRONMENT = "settings", "environment"  # attributes of studies
PARTS = {  # of the cost, and the clocks that they add up
    "training": ("students",),
    "teacher": ("teacher",),
    "exploit": ("checkpoints", "sampler"),
    "evaluation": ("evaluation",),
}
Results = dict[str, dict[str, dict[str, Any]]]  # by job, method and seed


class Speed(NamedTuple):
    """How long some workers took for a population together."""

    workers: int
    segments: int
    wall: float  # seconds from the beginning of the first segment to the end of the last
    cpu: float  # seconds of all workers


class Found(NamedTuple):
    """Results of complete cells, and speeds of workers by job and method."""

    results: Results
    speeds: dict[str, list[Speed]]


def read(storages: Iterable[str], before: Found) -> Found:
    """What complete cells in databases say, and what was read ``before`` of others."""
    results, speeds = deepcopy(before)
    for storage in storages:
        for name in sorted(optuna.get_all_study_names(storage)):
            study = optuna.load_study(study_name=name, storage=storage)
            job, method, seed, *workers = name.split("/")
            if not is_complete(study):
                continue
            if workers:
                speed = speed_of(study)
                own = speeds.get(f"{job}/{method}", [])
                others = [one for one in own if one.workers != speed.workers]
                speeds[f"{job}/{method}"] = sorted([speed, *others])
            else:
                results.setdefault(job, {}).setdefault(method, {})[seed] = result_of(study)
    return Found(results, speeds)


def is_complete(study: optuna.Study) -> bool:
    """Whether all segments have been run."""
    settings = study.user_attrs[SETTINGS]
    return len(complete(study)) >= settings["members"] * settings["generations"]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The complete segments."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def speed_of(study: optuna.Study) -> Speed:
    """Of the workers of a study, with those segments that they ran beyond the last generation."""
    trials = complete(study)
    begins = [t.datetime_start for t in trials if t.datetime_start is not None]
    ends = [t.datetime_complete for t in trials if t.datetime_complete is not None]
    workers = int(study.study_name.rpartition("-")[2])
    wall = (max(ends) - min(begins)).total_seconds()
    return Speed(workers, len(trials), wall, sum(seconds_of(trials).values()))


def seconds_of(trials: Iterable[FrozenTrial]) -> dict[str, float]:
    """Seconds by part of the cost; tests are not a part of it."""
    found = [trial.user_attrs[SECONDS] for trial in trials]
    return {
        part: sum(one.get(clock, 0.0) for one in found for clock in clocks)
        for part, clocks in PARTS.items()
    }


def result_of(study: optuna.Study) -> dict[str, Any]:
    """The best segment by its loss on the selection part, and what the cell cost."""
    trials = complete(study)
    failed = len(study.get_trials(deepcopy=False, states=[TrialState.FAIL]))
    took = [trial.duration.total_seconds() for trial in trials if trial.duration is not None]
    return {
        **study.user_attrs[SETTINGS],
        "environment": study.user_attrs[ENVIRONMENT],
        "began": min(str(trial.datetime_start) for trial in trials),
        "segments": len(trials),
        "failed": failed,
        "best": study.best_trial.user_attrs[MEASURED],
        "seconds": seconds_of(trials),
        "wall": sum(took),
        "losses": losses_by_generation(study),
        "mutation": mutation_by_generation(study),
    }


def losses_by_generation(study: optuna.Study) -> list[dict[str, float]]:
    """Losses of the member that is best on the selection part, and the mean over members."""
    measured: dict[int, list[dict[str, Any]]] = defaultdict(list)
    by_number = {trial.number: trial for trial in complete(study)}
    for segment in students(study):
        if segment.trial in by_number:
            measured[segment.generation].append(by_number[segment.trial].user_attrs[MEASURED])
    rows = []
    for _, members in sorted(measured.items()):
        best = min(members, key=lambda one: one["selection"]["loss"])
        mean = fmean(one["selection"]["loss"] for one in members)
        parts = {part: best[part]["loss"] for part in ("selection", "validation", "test")}
        rows.append({**parts, "mean": mean})
    return rows


def mutation_by_generation(study: optuna.Study) -> dict[str, dict[str, float]]:
    """By generation with clones: mean |g − 1| of their hyperparameters, and how far these moved.

    g is the factor of a hyperparameter's distance from its lower bound; the way that it moved is a
    fraction of its range, which also says something where the distance was nearly zero.
    """
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    clones: dict[int, int] = defaultdict(int)
    by_number = {trial.number: trial for trial in complete(study)}
    for segment in students(study):
        if segment.trial not in by_number or not segment.is_clone:
            continue
        clones[segment.generation] += 1
        pairs = [(one.before, one.after) for one in segment.mutations.values()]
        for before, after in (
            *pairs,
            *by_number[segment.trial].user_attrs.get(MUTATED, {}).values(),
        ):
            factor = after / before if before > 0 else math.nan
            found[segment.generation].append((abs(factor - 1), abs(after - before)))
    return {
        str(generation): {
            "degree": fmean(degree for degree, _ in pairs if math.isfinite(degree)),
            "moved": fmean(moved for _, moved in pairs),
            "clones": clones[generation],
        }
        for generation, pairs in sorted(found.items())
        if any(math.isfinite(degree) for degree, _ in pairs)
    }
