"""What a study has found so far: numbers, schedules, and a part of the study's note."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports.objective import read_gradient
from optuna_hypergrad.results import best_schedules, lineage_schedules
from optuna_hypergrad.samplers.gradient.history import outer_steps
from optuna_hypergrad.samplers.gradient.recommendation import is_modelled, recommendation
from optuna_hypergrad.samplers.population.lineage import SegmentRecord, lineage, students
from optuna_hypergrad.samplers.studies import best_first, maximizes, violation
from optuna_hypergrad.schedules import Schedule, Schedules

# Link definitions, which Markdown does not render, enclose our part of the note.
BEGIN = "[//]: # (optuna_hypergrad: written by publish, from here)"
END = "[//]: # (optuna_hypergrad: to here)"
MARK = f"(?:{re.escape(BEGIN)}|{re.escape(END)})"
PART = re.compile(f"{re.escape(BEGIN)}(?:(?!{MARK}).)*{re.escape(END)}", re.DOTALL)
UNPAIRED = re.compile(rf"{MARK}\s*")
MARKUP = re.compile(r"[\\`*_<>\[\]$|~&]")  # escaped in cells
MAX_ROWS = 40  # of a table
SPACE = "\N{EM SPACE}"  # the dashboard leaves none between columns
HINT = "*Written by `optuna_hypergrad.publish`; what you write above or below stays.*"


class Summary(NamedTuple):
    """What is published of a study beside figures."""

    numbers: Mapping[str, int]
    """The study's user attributes."""
    text: str
    """Markdown for the study's note."""
    file: str
    """The name of the files of ``schedules``, without a suffix."""
    schedules: Schedules


def summarize(study: Study) -> Summary | None:
    """The summary of a study; None if no sampler of this package has completed a trial."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return None
    segments = students(study)
    if any(segment.value is not None for segment in segments):
        return _population_summary(study, segments)
    return _model_summary(study) if is_modelled(study) else _search_summary(study)


def _model_summary(study: Study) -> Summary:
    """The summary of a study whose trials a Gaussian process proposes."""
    trials = study.get_trials(deepcopy=False)
    ranked = best_first(trials, maximizes(study))
    found = recommendation(study)
    best = ranked[0] if ranked else study.best_trial
    trial, expected = (best, None) if found is None else found
    n_gradients = sum(t.state.is_finished() and bool(read_gradient(t)) for t in trials)
    numbers = {
        "hg:best_trial": best.number,
        "hg:recommended_trial": trial.number,
        "hg:losses": len(ranked),
        "hg:hypergradients": n_gradients,
    }
    schedules = best_schedules(study, trial.number)
    parts = []
    if expected is not None:
        parts.append(
            f"Trial **{trial.number}** is recommended: its value was **{trial.value:.4g}**, and "
            f"**{expected:.4g}** is expected of another training, given {len(ranked)} losses and "
            f"{n_gradients} hypergradients."
        )
    elif trial.number != best.number:
        parts.append(f"Trial **{trial.number}** is recommended, by the mean over similar arrays.")
    if trial.number != best.number or expected is None:
        parts.append(_best_value(best))
    text = _text("Recommended schedule", " ".join(parts), _schedule_tables(trial, schedules))
    return Summary(numbers, text, f"recommended_schedules_trial_{trial.number}", schedules)


def _search_summary(study: Study) -> Summary | None:
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
    text = _text("Best schedule", _best_value(best), _schedule_tables(best, schedules))
    return Summary(numbers, text, f"best_schedules_trial_{best.number}", schedules)


def _population_summary(study: Study, segments: Sequence[SegmentRecord]) -> Summary:
    path = lineage(study)
    best = study.get_trials(deepcopy=False)[path[-1].trial]
    numbers = {
        "hg:best_trial": best.number,
        "hg:generations": 1 + max(segment.generation for segment in segments),
        "hg:members": len({s.member for s in segments if s.member is not None}),
        "hg:clones": sum(segment.is_clone for segment in segments),
    }
    text = _text("Lineage of the best member", _best_value(best), [_lineage_table(path)])
    # Segments with different parameters have no schedules in common.
    are_alike = all(one.params.keys() == path[0].params.keys() for one in path)
    schedules = lineage_schedules(study) if are_alike else Schedules()
    return Summary(numbers, text, f"lineage_schedules_trial_{best.number}", schedules)


def _text(title: str, result: str, tables: Sequence[str]) -> str:
    return "\n\n".join([f"### {title}", result, *tables, HINT])


def _best_value(best: FrozenTrial) -> str:
    if excess := violation(best):
        return f"No trial is feasible; trial **{best.number}** is closest, by {excess:.4g}."
    return f"Trial **{best.number}** has the best value, **{best.value:.4g}**."


def _schedule_tables(trial: FrozenTrial, schedules: Schedules) -> list[str]:
    """Tables of the schedules, one column each, and of all constant hyperparameters."""
    by_times: dict[tuple[str, ...], list[Schedule]] = {}
    for schedule in schedules.values():
        if len(schedule.values) > 1:
            by_times.setdefault(_times(schedule), []).append(schedule)
    tables, names = [], set()
    for times, columns in by_times.items():
        names |= {name for schedule in columns for name in schedule.names}
        rows = [*zip(times, *(schedule.values for schedule in columns), strict=True)]
        head = ["part", *(schedule.name for schedule in columns)]
        tables += ["Over the training:", table(head, rows)]
    if constant := [(name, value) for name, value in trial.params.items() if name not in names]:
        tables += ["Throughout:", table(["hyperparameter", "value"], constant)]
    return tables


def _times(schedule: Schedule) -> tuple[str, ...]:
    """When each value of a schedule holds, as a part of the training."""
    edges = [f"{100 * i / schedule.windows:.3g}" for i in range(schedule.windows + 1)]
    if schedule.form == "constant":
        return tuple(f"{a} to {b} %" for a, b in pairwise(edges))
    return tuple(f"at {edge} %" for edge in edges)


def _lineage_table(segments: Sequence[SegmentRecord]) -> str:
    """The segments of a lineage, the latest first, with their first values."""
    names = [*segments[-1].params]
    rows = [
        [
            one.trial,
            one.generation,
            "–" if one.member is None else one.member,
            "clone" if one.is_clone else "",
            "–" if one.value is None else one.value,
            *(one.params.get(name, "–") for name in names),
        ]
        for one in reversed(segments)
    ]
    return table(["trial", "generation", "member", "began as", "value", *names], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of at most ``MAX_ROWS`` rows.

    Example:
        >>> print(table(["name", "value"], [["a|b", 1 / 3]]).replace(SPACE, "~"))
        | name~ | value~ |
        | :--- | ---: |
        | a\\|b~ | 0.3333~ |
    """
    lines = [_row(head), f"| :--- |{' ---: |' * (len(head) - 1)}", *map(_row, rows[:MAX_ROWS])]
    n_left = len(rows) - MAX_ROWS
    return "\n".join(lines) + (f"\n\n… and {n_left} more rows." if n_left > 0 else "")


def _row(cells: Sequence[object]) -> str:
    texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
    plain = [MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines())) for text in texts]
    return f"| {' | '.join(cell + SPACE for cell in plain)} |"


def publish_note(study: Study, text: str) -> None:
    """Store our part of the study's note if it has changed."""
    from optuna_dashboard import get_note, save_note

    before = get_note(study)
    after = merge(before, text)
    if after != before:
        save_note(study, after)


def merge(note: str, text: str) -> str:
    """Replace our part of a note, or append it if there is none.

    All that people wrote stays. If one of the marks is gone, our text cannot be distinguished from
    theirs: all text stays, and the other mark is removed. Of several parts, which workers that
    publish at once can leave, the first is replaced and the others are removed.

    Example:
        >>> print(merge(merge("My own words.", "A table."), "A newer table."))
        My own words.
        <BLANKLINE>
        [//]: # (optuna_hypergrad: written by publish, from here)
        <BLANKLINE>
        A newer table.
        <BLANKLINE>
        [//]: # (optuna_hypergrad: to here)
    """
    ours = f"{BEGIN}\n\n{text}\n\n{END}"
    before, *after = (UNPAIRED.sub("", part) for part in PART.split(note))
    if not after:
        before = before.rstrip() and f"{before.rstrip()}\n\n"
    return "".join([before, ours, *after])
