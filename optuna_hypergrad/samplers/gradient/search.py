"""Fine schedules in a search: which of their parameters move together, cut anew at each step.

One search: where it stands, and what a decision makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.algorithms.sharing import shared_gradient, shared_windows
from optuna_hypergrad.algorithms.sign_descent import Outcome, Verdict
from optuna_hypergrad.reports import Rule, read_shapes
from optuna_hypergrad.samplers.distributions import ranges_of, to_distribution
from optuna_hypergrad.samplers.gradient import steps as outer
from optuna_hypergrad.samplers.gradient.steps import Claimed
from optuna_hypergrad.samplers.ranking import (
    mean_violation,
    restoring_gradient,
    violated_by,
)
from optuna_hypergrad.schedules import parameter_names

Windows = dict[str, tuple[int, ...]]  # by schedule, how many parameters each shared window holds


def fine_schedules(used: Sequence[Claimed]) -> dict[str, int]:
    """Schedules whose parameters may share, with their numbers, of the trials that decided."""
    shapes = ((name, shape) for one in used for name, shape in read_shapes(one.trial).items())
    return {name: shape.size for name, shape in shapes if shape.is_shared}


def share(
    outcome: Outcome, names: Sequence[str], ranges: Ranges, fine: Mapping[str, int]
) -> tuple[Outcome, Windows]:
    """Let the parameters of fine schedules tell their sum over a shared window.

    Parameters that move together move by the same step in search coordinates, so it is the
    hypergradient there that they share. Entries that say nothing count as zero.

    Args:
        outcome: What came of a step.
        names: The parameters, in its order.
        ranges: Their ranges.
        fine: Number of parameters by schedule.

    Returns:
        The outcome with shared hypergradients, and the windows that share.
    """
    gradient, windows = outcome.gradient.copy(), Windows()
    searched = ranges.unit_gradient(ranges.to_natural(outcome.point), gradient)
    for schedule, count in fine.items():
        own = [names.index(name) for name in parameter_names(schedule, count) if name in names]
        known = np.isfinite(searched[own])
        if known.any():
            h = np.where(known, searched[own], 0.0)
            windows[schedule] = shared_windows(h)
            gradient[own] = shared_gradient(h, windows[schedule])
    return outcome._replace(gradient=gradient), windows


MOST_DRAWS = 3  # of the parameters without hypergradients, before an infeasible point is left


class Search(NamedTuple):
    """A search over the parameters with hypergradients, after some decisions."""

    learned: Mapping[str, BaseDistribution]  # these parameters, and the latest range of each
    ranges: Ranges
    state: sign_descent.State | None = None  # None until a first trial ended without diverging
    restarts: int = 0  # how many starts have diverged
    windows: Mapping[str, tuple[int, ...]] = {}  # of fine schedules, as cut by the latest decision
    draws: int = 0  # how often in a row an infeasible point was kept, and the rest drawn anew
    halved_by: frozenset[str] = frozenset()  # constraints without hypergradients that halved γ
    silent: int = 0  # trials of the next point that were complete and reported nothing

    @classmethod
    def over(cls, learned: Mapping[str, BaseDistribution]) -> Search:
        """A search before its first decision."""
        return cls(learned, ranges_of([*learned.values()]))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, in the order of all arrays."""
        return tuple(self.learned)

    def point(self) -> dict[str, float]:
        """The next point by parameter, in natural units; empty at the start."""
        if self.state is None:
            return {}
        values = self.ranges.to_natural(self.state.point).tolist()
        return dict(zip(self.names, values, strict=True))

    def has_converged(self, tolerance: float) -> bool:
        """Whether every parameter has settled, or reports have stopped."""
        if self.is_silent:
            return True
        if self.state is None:
            return False
        return sign_descent.has_converged(self.state, self.ranges, tolerance)

    @property
    def is_silent(self) -> bool:
        """Whether so many trials of one point reported nothing that no report is to be expected."""
        return self.silent >= sign_descent.MAX_UNKNOWN

    def settled(self, tolerance: float) -> dict[str, list[str]]:
        """The parameters that have settled, by why: see ``sign_descent.Settled``."""
        if self.state is None or self.is_silent:
            return {}
        reasons = sign_descent.settled(self.state, self.ranges, tolerance)._asdict()
        return {
            reason: [name for name, is_so in zip(self.names, where, strict=True) if is_so]
            for reason, where in reasons.items()
        }


class Decision(NamedTuple):
    """An outer step of a search that is decided."""

    used: Sequence[Claimed]  # the trials that decided it
    before: Search
    outcome: sign_descent.Outcome  # in the order of the names of ``before``
    verdict: Verdict
    after: Search

    @property
    def is_drawn_anew(self) -> bool:
        """Whether the same point runs again, with other values of what is not learned."""
        return self.after.draws > self.before.draws

    @property
    def not_learned(self) -> list[str]:
        """The parameters that another sampler drew."""
        return _not_learned(self.used, self.before)


def decide(search: Search, used: Sequence[Claimed], rule: Rule, maximize: bool) -> Decision:
    """What the trials that decide an outer step make of a search, which knows their parameters."""
    names, ranges, state = search.names, search.ranges, search.state
    outcome = _outcome(used, names, ranges, state, maximize)
    outcome, windows = share(outcome, names, ranges, fine_schedules(used))
    verdict = sign_descent.verdict(state, outcome, rule.safeguard)
    is_guess = used[0].is_enqueued  # a user's guess that turns out bad is not held against us
    is_blind = _is_blind(state, outcome, rule)
    if state is None and verdict == "diverged" and rule.safeguard is not None:
        after = search._replace(restarts=search.restarts + (not is_guess))
    elif is_guess and sign_descent.is_rejected(state, verdict, rule.safeguard):
        after = search
    elif is_blind and search.draws < MOST_DRAWS and _not_learned(used, search):
        verdict, after = "rejected", search._replace(draws=search.draws + 1)
    elif verdict == "rejected" and _has_no_way(state, outcome):
        after = search._replace(state=None, restarts=search.restarts + 1, windows={}, draws=0)
    else:
        if state is None:
            gamma = _step_size(names, ranges, rule.step_size)
            state = sign_descent.init(ranges, outcome.point, gamma)
        state = sign_descent.advance(state, outcome, ranges, rule.safeguard, verdict)
        cut = search.windows if outcome.diverged else windows
        by = search.halved_by.union(violated_by(used) if is_blind else ())
        after = search._replace(state=state, windows=cut, draws=0, halved_by=by)
    return Decision(used, search, outcome, verdict, after)


def _is_blind(state: sign_descent.State | None, outcome: sign_descent.Outcome, rule: Rule) -> bool:
    """Whether an outcome violates constraints, and nothing tells which parameter is to blame."""
    if state is None or rule.safeguard is None or outcome.diverged:
        return False
    is_lost = not outcome.restores and outcome.violation > 0
    verdict = sign_descent.verdict(state, outcome, rule.safeguard)
    return is_lost and verdict in ("rejected", "measured again")


def _not_learned(used: Sequence[Claimed], search: Search) -> list[str]:
    """The parameters of trials that leave a choice, and that a search does not move."""
    had = {name: dist for one in used for name, dist in one.trial.distributions.items()}
    return [name for name, dist in had.items() if name not in search.learned and not dist.single()]


def _has_no_way(state: sign_descent.State | None, outcome: sign_descent.Outcome) -> bool:
    """Whether nothing feasible is known, and the loss's hypergradient does not lead there."""
    infeasible = state is not None and state.best is not None and state.best.violation > 0
    return infeasible and not outcome.restores


def parameter_setting(name: str, given: Mapping[str, float]) -> float | None:
    """What was given for a parameter, or else for the schedule that it belongs to."""
    schedule, _, index = name.rpartition("_")
    return given.get(name, given.get(schedule) if index.isdecimal() else None)


def learned_by(used: Sequence[Claimed]) -> dict[str, BaseDistribution]:
    """The parameters with hypergradients in a decision, and their distributions."""
    learned: dict[str, BaseDistribution] = {}
    for one in used:
        known = one.trial.distributions
        learned |= {name: known[name] for name in known if name in one.learned}
    return learned


def _outcome(
    used: Sequence[Claimed],
    names: tuple[str, ...],
    ranges: Ranges,
    state: sign_descent.State | None,
    maximize: bool,
) -> sign_descent.Outcome:
    """What the trials that decide a step say together; half of them diverged is diverged."""
    sound = [one for one in used if not one.diverged]
    restoring = restoring_gradient(sound)
    gradient = restoring or outer.mean_gradient(used)
    losses = [one.trial.value for one in sound if one.trial.value is not None]
    loss = outer.mean(losses) if losses else float("nan")
    longest = max(used, key=lambda one: len(one.trial.params)).trial
    return sign_descent.Outcome(
        _point_of(longest, names, ranges, state),
        -loss if maximize else loss,
        np.array([gradient.get(name, float("nan")) for name in names], dtype=float),
        diverged=2 * len(sound) <= len(used),
        violation=mean_violation(sound),
        restores=bool(restoring),
    )


def _point_of(
    trial: FrozenTrial, names: tuple[str, ...], ranges: Ranges, state: sign_descent.State | None
) -> Array:
    """Where a trial ran, in search coordinates.

    That is the proposed point itself for parameters that the trial did not have, or that only
    rounding to an integer or a grid set apart: progress of less than half a step must not be lost.
    """
    proposed = ranges.start() if state is None else ranges.to_natural(state.point)
    unmoved = ranges.to_search(proposed) if state is None else state.point
    ran, elsewhere = proposed.copy(), np.zeros(len(names), dtype=bool)
    for i, (name, value) in enumerate(zip(names, proposed.tolist(), strict=True)):
        if name in trial.params:
            ran[i] = trial.params[name]
            rounded = to_distribution(value, trial.distributions[name])
            elsewhere[i] = state is None or trial.params[name] != rounded
    return np.where(elsewhere, ranges.to_search(np.clip(ran, ranges.low, ranges.high)), unmoved)


def _step_size(names: tuple[str, ...], ranges: Ranges, given: Mapping[str, float]) -> Array:
    sizes = zip(names, ranges.step_size().tolist(), strict=True)
    chosen = ((parameter_setting(name, given), default) for name, default in sizes)
    return np.array([default if own is None else own for own, default in chosen], dtype=float)
