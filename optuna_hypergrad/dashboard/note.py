"""The part of a study's note that is ours, and how it is kept apart from what people write.

What a study has found so far: numbers, words, and schedules to take away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.results import best_schedules, replay
from optuna_hypergrad.samplers.gradient.history import outer_steps
from optuna_hypergrad.samplers.population.lineage import SegmentRecord, lineage, students
from optuna_hypergrad.samplers.ranking import best_first, violation
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.schedules import Schedule, Schedules

# Link definitions, which Markdown does not show.
BEGIN = "[//]: # (optuna_hypergrad: written by publish, from here)"
END = "[//]: # (optuna_hypergrad: to here)"
MARK = f"(?:{re.escape(BEGIN)}|{re.escape(END)})"
PART = re.compile(f"{re.escape(BEGIN)}(?:(?!{MARK}).)*{re.escape(END)}", re.DOTALL)
LONE = re.compile(rf"{MARK}\s*")  # a mark whose other half is gone
MARKUP = re.compile(r"[\\`*_<>\[\]$|~&]")  # what a cell must not be made of, but may say
ROWS = 40  # of a table
SPACE = "\N{EM SPACE}"  # the dashboard leaves none between columns


def publish_note(study: Study, text: str) -> None:
    """Store our part of the study's note, if it has changed."""
    from optuna_dashboard import get_note, save_note

    before = get_note(study)
    after = merged(before, text)
    if after != before:
        save_note(study, after)


def merged(note: str, text: str) -> str:
    """A note with our part replaced, or appended where there is none.

    All that people wrote stays. Where one mark is gone, nobody can tell our words from theirs: all
    stay, and the other mark goes. Of several parts, which workers that publish at once can leave,
    the first is replaced and the others go.

    Example:
        >>> print(merged(merged("My own words.", "A table."), "A newer table."))
        My own words.
        <BLANKLINE>
        [//]: # (optuna_hypergrad: written by publish, from here)
        <BLANKLINE>
        A newer table.
        <BLANKLINE>
        [//]: # (optuna_hypergrad: to here)
    """
    ours = f"{BEGIN}\n\n{text}\n\n{END}"
    before, *after = (LONE.sub("", words) for words in PART.split(note))
    if not after:
        before = before.rstrip() and f"{before.rstrip()}\n\n"
    return "".join([before, ours, *after])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, of not too many rows.

    Example:
        >>> print(table(["name", "value"], [["a|b", 1 / 3]]).replace(SPACE, "~"))
        | name~ | value~ |
        | :--- | ---: |
        | a\\|b~ | 0.3333~ |
    """
    lines = [_line(head), f"| :--- |{' ---: |' * (len(head) - 1)}", *map(_line, rows[:ROWS])]
    left = len(rows) - ROWS
    return "\n".join(lines) + (f"\n\n… and {left} more rows." if left > 0 else "")


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(_cell(cell) + SPACE for cell in cells)} |"


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))


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


def _of_population(study: Study, segments: Sequence[SegmentRecord]) -> Findings:
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


def _lived(study: Study, ancestors: Sequence[SegmentRecord]) -> Schedules:
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


def _descent(ancestors: Sequence[SegmentRecord]) -> str:
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
