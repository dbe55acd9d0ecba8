"""A search replayed from its decisions: where it starts, what it has learned, where it goes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.samplers import steps as outer
from optuna_hypergrad.samplers.distributions import ranges_of, to_distribution
from optuna_hypergrad.samplers.rule import Rule
from optuna_hypergrad.samplers.sharing import fine_schedules, share
from optuna_hypergrad.samplers.steps import Claimed, Steps


class Search(NamedTuple):
    """A search over the parameters with hypergradients, after some decisions."""

    learned: Mapping[str, BaseDistribution]  # these parameters, and the latest range of each
    ranges: Ranges
    state: sign_descent.State | None = None  # None until a first trial ended without diverging
    restarts: int = 0  # how many starts have diverged
    windows: Mapping[str, tuple[int, ...]] = {}  # of fine schedules, as cut by the latest decision

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
        """Whether every step size has fallen below the tolerance."""
        if self.state is None:
            return False
        return sign_descent.has_converged(self.state, self.ranges, tolerance)


class Searches:
    """The search after each decision of a study, worked out from the one before.

    Decisions never change once a trial stands on them, so each is gone through once.

    Args:
        rule: How searches start and move.
        maximize: The study's direction.
    """

    def __init__(self, rule: Rule, maximize: bool) -> None:
        self._rule, self._maximize = rule, maximize
        self._found: dict[tuple[int, ...], Search] = {(): Search.over({})}

    def after(self, used: Sequence[Claimed], steps: Steps) -> Search:
        """The search that goes on from a decision, the trials that decided an outer step.

        Args:
            used: These trials; none before the first decision.
            steps: The steps of their chain.
        """
        ahead = []
        while _numbers(used) not in self._found:
            ahead.append(used)
            used = outer.stood_on(steps, used[0].claim)
        search = self._found[_numbers(used)]
        for used in reversed(ahead):
            search = self._found[_numbers(used)] = self.beyond(search, used, steps)
        return search

    def beyond(self, search: Search, used: Sequence[Claimed], steps: Steps) -> Search:
        """A search after one more decision, which is not remembered."""
        learned = {**search.learned, **_learned(used)}
        if learned == search.learned:
            return advanced(search, used, self._rule, self._maximize)
        # New parameters and ranges bear on all decisions.
        decisions = [*outer.ancestry(steps, used[0].claim), used]
        return replay(decisions, self._rule, self._maximize)


def replay(decisions: Sequence[Sequence[Claimed]], rule: Rule, maximize: bool) -> Search:
    """The search that these decisions led to, each the trials that decided an outer step."""
    learned: dict[str, BaseDistribution] = {}
    for used in decisions:
        learned |= _learned(used)
    search = Search.over(learned)
    for used in decisions:
        search = advanced(search, used, rule, maximize)
    return search


def advanced(search: Search, used: Sequence[Claimed], rule: Rule, maximize: bool) -> Search:
    """A search after a decision about parameters that it knows."""
    names, ranges, state = search.names, search.ranges, search.state
    outcome = _outcome(used, names, ranges, state, maximize)
    outcome, windows = share(outcome, names, ranges, fine_schedules(used))
    is_guess = used[0].is_enqueued  # a user's guess that turns out bad is not held against us
    if state is None:
        if outcome.diverged and rule.safeguard is not None:
            return search._replace(restarts=search.restarts + (not is_guess))
        gamma = _step_size(names, ranges, rule.step_size)
        state = sign_descent.init(ranges, outcome.point, gamma)
    elif is_guess and sign_descent.is_rejected(state, outcome, rule.safeguard):
        return search
    state = sign_descent.advance(state, outcome, ranges, rule.safeguard)
    return search._replace(state=state, windows=search.windows if outcome.diverged else windows)


def start_value(
    name: str, distribution: BaseDistribution, rule: Rule, entropy: tuple[int, int, int]
) -> float:
    """Where a parameter begins, in natural units.

    The first start of the first chain is the rule's, or the range's own; every other one is
    drawn uniformly (in log space for log ranges).

    Args:
        name: The parameter.
        distribution: Its distribution, numeric.
        rule: Holds starts by parameter or schedule.
        entropy: (seed, chain, number of starts that have diverged).
    """
    ranges = ranges_of([distribution])
    _, chain, restarts = entropy
    if chain == 0 and restarts == 0:
        given = _of_parameter(name, rule.start)
        return float(
            ranges.start()[0] if given is None else np.clip(given, ranges.low, ranges.high)[0]
        )
    rng = np.random.default_rng([*entropy, zlib.crc32(name.encode())])
    low, high = ranges.to_search(ranges.low), ranges.to_search(ranges.high)
    return float(ranges.to_natural(rng.uniform(low, high))[0])


def _numbers(used: Sequence[Claimed]) -> tuple[int, ...]:
    return tuple(one.trial.number for one in used)


def _learned(used: Sequence[Claimed]) -> dict[str, BaseDistribution]:
    """The parameters with hypergradients in a decision, and their distributions."""
    learned: dict[str, BaseDistribution] = {}
    for one in used:
        known = one.trial.distributions
        learned |= {name: known[name] for name in one.gradient or {} if name in known}
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
    gradient = outer.mean_gradient(used)
    losses = [one.trial.value for one in sound if one.trial.value is not None]
    loss = fmean(losses) if losses else float("nan")
    longest = max(used, key=lambda one: len(one.trial.params)).trial
    return sign_descent.Outcome(
        _point_of(longest, names, ranges, state),
        -loss if maximize else loss,
        np.array([gradient.get(name, float("nan")) for name in names], dtype=float),
        diverged=2 * len(sound) <= len(used),
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
    chosen = ((_of_parameter(name, given), default) for name, default in sizes)
    return np.array([default if own is None else own for own, default in chosen], dtype=float)


def _of_parameter(name: str, given: Mapping[str, float]) -> float | None:
    """What was given for a parameter, or else for the schedule that it belongs to."""
    schedule, _, index = name.rpartition("_")
    return given.get(name, given.get(schedule) if index.isdecimal() else None)
