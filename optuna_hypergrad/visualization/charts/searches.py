"""One search of a study: its outer steps or trials, and the hyperparameters that figures show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.arguments import check_choice, check_names, checked_count, lookup
from optuna_hypergrad.reports.objective import read_gradient
from optuna_hypergrad.samplers.describe import short
from optuna_hypergrad.samplers.gradient.history import OuterStep, Status, failure_of, outer_steps
from optuna_hypergrad.samplers.gradient.recommendation import is_modelled, recommendation
from optuna_hypergrad.samplers.studies import best_first, check_one_objective, maximizes, violation
from optuna_hypergrad.visualization.charts import Axis, Chart, Panel, Points, Scale
from optuna_hypergrad.visualization.charts.parameters import PlottedHparam, plotted_hparams

MAX_COLUMNS, MAX_PANELS = 3, 12
MAX_WINDOWS = 12  # with a line each
MAX_STEPS, MIN_STEPS, MAX_POINTS = 300, 40, 4000

NO_STEPS = "No trial of a GradientSampler has finished yet."
NO_OUTER_STEPS = (
    "A Gaussian process proposes the trials, which are no outer steps.\n"
    "This figure is of GradientSampler(strategy='sign_descent')."
)
NO_GRADIENTS = "No hyperparameter of the search has a hypergradient yet."
NO_HPARAMS = "No hyperparameter has been suggested yet."
STEPS = Axis("outer step", is_integer=True)
WINDOWS = Scale("window, as a fraction of training", 0.0, 1.0)
NOT_ACCEPTED: tuple[Status, ...] = ("rejected", "diverged", "pruned", "failed")


def subsample(n: int, size: int, keep: Iterable[int] = ()) -> list[int]:
    """About ``size`` of the indices below ``n``, evenly spaced, with the first and the last.

    Args:
        n: The number of indices.
        size: How many to choose.
        keep: Indices to choose in addition.

    Example:
        >>> subsample(5, 10), subsample(100, 4, keep=[7])
        ([0, 1, 2, 3, 4], [0, 7, 33, 66, 99])
    """
    if n <= size:
        return [*range(n)]
    even = np.linspace(0, n - 1, size).round().astype(int).tolist()
    return sorted({*even, *keep})


class ShownTrial(OuterStep):
    """A trial that figures show in place of an outer step: of the Gaussian process."""

    @classmethod
    def of(cls, trial: FrozenTrial, maximize: bool) -> ShownTrial:
        """A finished trial."""
        gradient = read_gradient(trial) or {}
        has_value = bool(best_first([trial], maximize))
        return cls(
            chain=0,
            step=trial.number,
            trials=(trial.number,),
            verdict="accepted" if has_value else "diverged",
            value=trial.value if has_value else None,
            params=trial.params,
            gradient=gradient,
            reports=(gradient,),
            step_size={},
            sign={},
            flipped=frozenset(),
            proposal={},
            windows={},
            violation=violation(trial),
            status="accepted" if has_value else failure_of(trial),
        )


class Search(NamedTuple):
    """The finished outer steps of one search, or the trials of a Gaussian process."""

    chain: int
    n_chains: int
    steps: Sequence[OuterStep]
    hparams: Sequence[PlottedHparam]
    n_omitted: int  # hyperparameters without a panel
    best: OuterStep | None

    @property
    def unit(self) -> Literal["outer step", "trial"]:
        """What lines and points stand for."""
        return "trial" if isinstance(self.steps[0], ShownTrial) else "outer step"

    @property
    def name_of_best(self) -> Literal["best", "recommended"]:
        """What legends call the best outer step or the recommended trial."""
        return "recommended" if self.unit == "trial" else "best"

    @property
    def axis(self) -> Axis:
        """The axis of outer steps or trials."""
        return Axis(self.unit, is_integer=True)

    def subsample(self, size: int | None = None) -> list[OuterStep]:
        """About ``size`` evenly spaced steps with the first, the last and the best."""
        if size is None:  # figures with a line for each window must be small enough to be stored
            n_lines = sum(min(len(hparam.parameters), MAX_WINDOWS) for hparam in self.hparams)
            size = max(MIN_STEPS, min(MAX_STEPS, MAX_POINTS // max(n_lines, 1)))
        keep = [i for i, step in enumerate(self.steps) if step is self.best]
        return [self.steps[i] for i in subsample(len(self.steps), size, keep)]

    def title(self, title: str, n_shown: int) -> str:
        """The title of a figure with what it leaves out."""
        parts = [title]
        if self.n_chains > 1:
            parts.append(f"chain {self.chain} ({self.n_chains} in all)")
        if n_shown < len(self.steps):
            parts.append(f"{n_shown} of {len(self.steps):,} {self.unit}s")
        if self.n_omitted:
            n = len(self.hparams)
            parts.append(f"{n} of {n + self.n_omitted} hyperparameters")
        return " · ".join(parts)

    def chart(self, title: str, panels: Sequence[Panel], n_shown: int) -> Chart:
        """A figure with a panel for each hyperparameter."""
        columns = min(len(panels), MAX_COLUMNS)
        return Chart(self.title(title, n_shown), panels, columns, size=(4.4, 3.2))


def read_search(
    study: Study,
    names: Sequence[str] | None,
    chain: int | None,
    *,
    has_gradient: bool = True,
    of_trials: bool = True,
) -> Search | str:
    """One search of a study, or the reason why there is nothing to draw.

    Args:
        study: The study.
        names: The hyperparameters to show, schedules or parameters; None for the first twelve.
        chain: Which search; None for the one with the best value.
        has_gradient: Leave out hyperparameters without a hypergradient, and trials of the Gaussian
            process without one.
        of_trials: Whether trials of the Gaussian process are shown in place of outer steps.

    Raises:
        ValueError: If an argument has the wrong type, or names what the study does not have.
    """
    check_names("names", names)
    if chain is not None:
        checked_count("chain", chain, least=0)
    steps = read_steps(study)
    if not steps:
        return NO_STEPS
    if not of_trials and isinstance(steps[0], ShownTrial):
        return NO_OUTER_STEPS
    best = best_of(study, steps)
    chains = sorted({step.chain for step in steps})
    if chain is None:
        chain = chains[0] if best is None else best.chain
    else:
        check_choice("chain", chain, chains)
    steps = [step for step in steps if step.chain == chain]
    if best is None or best.chain != chain:
        best = best_of(study, steps)
    hparams = plotted_hparams(study.get_trials(deepcopy=False), steps, has_gradient)
    if not hparams:
        return NO_GRADIENTS if has_gradient else NO_HPARAMS
    n_omitted = 0
    if names is None:
        n_omitted = max(len(hparams) - MAX_PANELS, 0)
        hparams = hparams[:MAX_PANELS]
    else:
        by_name = {hparam.name: hparam for hparam in hparams}
        hparams = [lookup("names", name, by_name) for name in dict.fromkeys(names)]
    if has_gradient and isinstance(steps[0], ShownTrial):
        steps = [step for step in steps if step.gradient]
    return Search(chain, len(chains), steps, hparams, n_omitted, best)


def read_steps(study: Study) -> Sequence[OuterStep]:
    """The outer steps of a study, or its finished trials if a Gaussian process proposes them."""
    check_one_objective(study)
    if not is_modelled(study):
        return outer_steps(study)
    maximize, trials = maximizes(study), study.get_trials(deepcopy=False)
    return [ShownTrial.of(t, maximize) for t in trials if t.state.is_finished() and t.params]


def best_of(study: Study, steps: Sequence[OuterStep]) -> OuterStep | None:
    """The best outer step, or the trial that the study recommends."""
    if not steps or not isinstance(steps[0], ShownTrial):
        return best_step(steps, maximizes(study))
    found = recommendation(study)
    return next((s for s in steps if found and s.step == found.trial.number), None)


def best_step(steps: Iterable[OuterStep], maximize: bool) -> OuterStep | None:
    """The step with the best finite value among those that violate constraints least."""
    sign = -1.0 if maximize else 1.0
    ranked = [
        (step.violation, sign * step.value, i, step)
        for i, step in enumerate(steps)
        if step.value is not None and math.isfinite(step.value) and step.verdict != "diverged"
    ]
    return min(ranked)[3] if ranked else None


def describe_step(step: OuterStep) -> str:
    if isinstance(step, ShownTrial):
        parts = [f"infeasible by {short(step.violation)}"] if step.violation else []
        result = step.status if step.value is None else f"value {step.value:.4g}"
        return f"trial {step.step}: {', '.join([*parts, result])}"
    trials = "+".join(map(str, step.trials[:4])) + ("+…" if len(step.trials) > 4 else "")
    excess = f", infeasible by {short(step.violation)}" if step.violation else ""
    value = "" if step.value is None else f", value {step.value:.4g}"
    return f"step {step.step} (trial {trials}): {step.status}{excess}{value}"


def label(step: OuterStep) -> str:
    """What legends call an outer step or a trial."""
    if step.status in NOT_ACCEPTED:
        return step.status
    return "trial" if isinstance(step, ShownTrial) else "accepted"


def crosses(
    steps: Sequence[OuterStep], x: Sequence[float], y: Sequence[float], color: str
) -> list[Points]:
    """Crosses at the steps that were not accepted; none if all were."""
    left = [i for i, step in enumerate(steps) if step.status in NOT_ACCEPTED]
    at = [x[i] for i in left], [y[i] for i in left]
    return [Points(*at, color, describe_statuses(steps), "cross", 5.0)] if left else []


def describe_statuses(steps: Iterable[OuterStep]) -> str:
    """The statuses of steps that were not accepted, for a legend."""
    found = {step.status for step in steps}
    *others, last = [status for status in NOT_ACCEPTED if status in found]
    return f"{', '.join(others)} or {last}" if others else last
