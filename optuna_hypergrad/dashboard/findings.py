"""What a study has found so far: numbers, words, and schedules to take away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.dashboard.note import table
from optuna_hypergrad.recall import best_schedules, replay
from optuna_hypergrad.samplers.constraints import violation
from optuna_hypergrad.samplers.founders import best_first
from optuna_hypergrad.samplers.history import outer_steps
from optuna_hypergrad.samplers.lineage import Ancestor, lineage, students
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.schedules import Schedule, Schedules

HINT = "*Written by `optuna_hypergrad.publish`; what you write above or below stays.*"


class Findings(NamedTuple):
    """What people want to know of a study."""

    numbers: Mapping[str, int]
    """By user attribute of the study."""
    text: str
    """Markdown for its note."""
    file: str
    """What the schedules are called, without a suffix: with the number of the trial."""
    schedules: Schedules


def findings(study: Study) -> Findings | None:
    """What a study has found so far; None while no sampler of this package found anything."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return None
    segments = students(study)
    if any(student.value is not None for student in segments):
        return _of_population(study, segments)
    return _of_search(study)


def _of_search(study: Study) -> Findings | None:
    steps = outer_steps(study)
    if not steps:
        return None
    ranked = best_first(study.get_trials(deepcopy=False), maximizes(study))
    best = ranked[0] if ranked else study.best_trial
    schedules = best_schedules(study, best.number)
    numbers = {
        "hg:best_trial": best.number,
        "hg:outer_steps": len(steps),
        "hg:accepted_steps": sum(step.verdict == "accepted" for step in steps),
    }
    text = _text("Best schedule", best, [*_tables(best, schedules)])
    return Findings(numbers, text, f"best_schedules_trial_{best.number}", schedules)


def _of_population(study: Study, segments: Sequence[Ancestor]) -> Findings:
    ancestors = lineage(study)
    best = study.get_trials(deepcopy=False)[ancestors[-1].trial]
    numbers = {
        "hg:best_trial": best.number,
        "hg:generations": 1 + max(student.generation for student in segments),
        "hg:members": len({s.member for s in segments if s.member is not None}),
        "hg:clones": sum(student.is_clone for student in segments),
    }
    text = _text("Lineage of the best student", best, [_descent(ancestors)])
    return Findings(numbers, text, f"replay_trial_{best.number}", _lived(study, ancestors))


def _lived(study: Study, ancestors: Sequence[Ancestor]) -> Schedules:
    """What the best student lived through; nothing, where segments differ in what they have."""
    alike = all(one.params.keys() == ancestors[0].params.keys() for one in ancestors)
    return replay(study) if alike else Schedules()


def _text(title: str, best: FrozenTrial, tables: Sequence[str]) -> str:
    value = f"Trial **{best.number}** has the best value, **{best.value:.4g}**."
    if excess := violation(best):
        value = f"No trial is feasible; trial **{best.number}** is the nearest, by {excess:.4g}."
    return "\n\n".join([f"### {title}", value, *tables, HINT])


def _tables(trial: FrozenTrial, schedules: Schedules) -> Iterator[str]:
    """Schedules that change, a column each, and below them what stays the same."""
    alike: dict[tuple[str, ...], list[Schedule]] = {}
    for schedule in schedules.values():
        if len(schedule.values) > 1:
            alike.setdefault(_times(schedule), []).append(schedule)
    for times, columns in alike.items():
        rows = zip(times, *(schedule.values for schedule in columns), strict=True)
        yield "Over the training:"
        yield table(["part", *(schedule.name for schedule in columns)], [*rows])
    moving = {name for columns in alike.values() for one in columns for name in one.names}
    if rest := [(name, value) for name, value in trial.params.items() if name not in moving]:
        yield "Throughout:"
        yield table(["hyperparameter", "value"], rest)


def _times(schedule: Schedule) -> tuple[str, ...]:
    """When each value of a schedule holds, in parts of the training."""
    edges = [f"{100 * i / schedule.windows:.3g}" for i in range(schedule.windows + 1)]
    if schedule.form == "constant":
        return tuple(f"{a} to {b} %" for a, b in pairwise(edges))
    return tuple(f"at {edge} %" for edge in edges)


def _descent(ancestors: Sequence[Ancestor]) -> str:
    """A lineage, the latest segment first, with what each began with."""
    names = [*ancestors[-1].params]
    rows = [
        [
            *(one.trial, one.generation, "–" if one.member is None else one.member),
            *("clone" if one.is_clone else "", "–" if one.value is None else one.value),
            *(one.params.get(name, "–") for name in names),
        ]
        for one in reversed(ancestors)
    ]
    return table(["trial", "generation", "member", "began as", "value", *names], rows)
