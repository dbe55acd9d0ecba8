"""Fewer of many, where no screen could show them all.

How windows of schedules are describe_step apart where each has a line over outer steps.

The course of one search, as the figures of it see it: its outer steps and hyperparameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from optuna.study import Study

from optuna_hypergrad.arguments import check_names, checked_count, lookup
from optuna_hypergrad.samplers.describe import short
from optuna_hypergrad.samplers.gradient.history import OuterStep, Status, outer_steps
from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.visualization.charts.marks import Scale
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam, plotted_hparams


def thinned(n: int, most: int, keep: Iterable[int] = ()) -> list[int]:
    """At most about ``most`` of the indices below ``n``, evenly, the first and last among them.

    Args:
        n: How many there are.
        most: How many are wanted, at most.
        keep: Indices that must be among them, on top.

    Example:
        >>> thinned(5, 10), thinned(100, 4, keep=[7])
        ([0, 1, 2, 3, 4], [0, 7, 33, 66, 99])
    """
    if n <= most:
        return [*range(n)]
    even = np.linspace(0, n - 1, most).round().astype(int).tolist()
    return sorted({*even, *keep})


COLUMNS = 3
MOST_WINDOWS = 12  # with a line each
MOST_STEPS, LEAST_STEPS, MOST_POINTS = 300, 40, 4000

SCALE = Scale("window, as a fraction of training", 0.0, 1.0)


def most_steps(hypers: Sequence[PlottedHparam]) -> int:
    """How many outer steps are drawn at most, so that figures stay small where they are stored."""
    n_lines = sum(min(len(hyper.parameters), MOST_WINDOWS) for hyper in hypers)
    return max(LEAST_STEPS, min(MOST_STEPS, MOST_POINTS // max(n_lines, 1)))


NOTHING_YET = "No outer step of a GradientSampler has been decided yet."
NOTHING_LEARNED = "No hyperparameter of the search has a hypergradient yet."
NO_HYPERS = "No hyperparameter has been suggested yet."
MOST_PANELS = 12
LEFT: tuple[Status, ...] = ("rejected", "diverged", "pruned", "failed")


class Course(NamedTuple):
    """The decided outer steps of one search of a study."""

    chain: int
    n_chains: int
    steps: Sequence[OuterStep]
    hypers: Sequence[PlottedHparam]
    n_left_out: int  # hyperparameters for which there is no panel
    best: OuterStep | None  # that of the best value

    def shown(self, most: int) -> list[OuterStep]:
        """At most some of the steps, evenly; the first, the last and the best among them."""
        kept = thinned(len(self.steps), most, [] if self.best is None else [self._at(self.best)])
        return [self.steps[i] for i in kept]

    def title(self, what: str, n_shown: int) -> str:
        """What the figure shows, and of how much."""
        n, panels = len(self.steps), len(self.hypers)
        parts = [what]
        if self.n_chains > 1:
            parts.append(f"chain {self.chain} ({self.n_chains} in all)")
        if n_shown < n:
            parts.append(f"{n_shown} of {n:,} outer steps")
        if self.n_left_out:
            parts.append(f"{panels} of {panels + self.n_left_out} hyperparameters")
        return " · ".join(parts)

    def _at(self, step: OuterStep) -> int:
        return step.step - self.steps[0].step


def follow(
    study: Study,
    names: Sequence[str] | None = None,
    chain: int | None = None,
    *,
    learned: bool = True,
) -> Course | str:
    """The course of one search of a study, or why there is nothing to see.

    Args:
        study: The study.
        names: The hyperparameters to show, schedules or parameters; None for the first few.
        chain: Which search; None for the one with the best value.
        learned: Leave out hyperparameters without hypergradients.

    Raises:
        ValueError: If an argument is not of its kind, or names what the study does not have.
    """
    check_names("names", names)
    if chain is not None:
        checked_count("chain", chain, least=0)
    steps = outer_steps(study)
    if not steps:
        return NOTHING_YET
    maximize = maximizes(study)
    chosen = _chosen(steps, chain, maximize)
    own = [step for step in steps if step.chain == chosen]
    hypers = plotted_hparams(study.get_trials(deepcopy=False), own, learned)
    if not hypers:
        return NOTHING_LEARNED if learned else NO_HYPERS
    if names is None:
        shown = hypers[:MOST_PANELS]
    else:
        by_name = {hyper.name: hyper for hyper in hypers}
        hypers = shown = [lookup("names", name, by_name) for name in dict.fromkeys(names)]
    n_chains = len({step.chain for step in steps})
    left_out = len(hypers) - len(shown)
    return Course(chosen, n_chains, own, shown, left_out, best_step(own, maximize))


def best_step(steps: Iterable[OuterStep], maximize: bool) -> OuterStep | None:
    """The step with the best value, if one has any; a feasible one, if there is one."""
    sign = -1.0 if maximize else 1.0
    sound = [
        (step.violation, sign * step.value, i, step)
        for i, step in enumerate(steps)
        if step.value is not None and math.isfinite(step.value) and step.verdict != "diverged"
    ]
    return min(sound)[3] if sound else None


def describe_step(step: OuterStep) -> str:
    """A step in a few words."""
    trials = "+".join(map(str, step.trials[:4])) + ("+…" if len(step.trials) > 4 else "")
    excess = f", infeasible by {short(step.violation)}" if step.violation else ""
    value = "" if step.value is None else f", value {step.value:.4g}"
    return f"step {step.step} (trial {trials}): {step.status}{excess}{value}"


def describe_left(steps: Iterable[OuterStep]) -> str:
    """What became of those steps that were not accepted, for a legend."""
    found = {step.status for step in steps}
    *others, last = [status for status in LEFT if status in found]
    return f"{', '.join(others)} or {last}" if others else last


def _chosen(steps: Sequence[OuterStep], chain: int | None, maximize: bool) -> int:
    chains = sorted({step.chain for step in steps})
    if chain is None:
        best = best_step(steps, maximize)
        return chains[0] if best is None else best.chain
    if chain not in chains:
        raise ValueError(f"chain must be one of {', '.join(map(str, chains))}, got {chain}.")
    return chain
