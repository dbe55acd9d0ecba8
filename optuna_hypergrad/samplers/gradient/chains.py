"""The searches of a study, replayed from their decisions, and where each starts."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.reports import Claim, Rule
from optuna_hypergrad.samplers.distributions import ranges_of
from optuna_hypergrad.samplers.gradient import steps as outer
from optuna_hypergrad.samplers.gradient.search import (
    Decision,
    Search,
    decide,
    learned_by,
    parameter_setting,
)
from optuna_hypergrad.samplers.gradient.steps import Claimed, Steps
from optuna_hypergrad.samplers.ranking import best_first


class Chain(NamedTuple):
    """One search of a study, up to its latest decision."""

    number: int
    steps: Steps
    used: Sequence[Claimed]  # the trials of this decision; none before the first
    search: Search

    @property
    def decided(self) -> int:
        """How many steps are decided."""
        return 1 + self.used[0].claim.step if self.used else 0

    @property
    def running(self) -> int:
        """How many trials run at the step that is to be decided next."""
        open_step = self.steps[self.decided :]
        return sum(not one.trial.state.is_finished() for claimed in open_step for one in claimed)

    @property
    def first(self) -> Claim | None:
        """The claim that began it."""
        return self.steps[0][0].claim if self.steps and self.steps[0] else None

    def best(self, maximize: bool) -> FrozenTrial | None:
        """Its best complete trial."""
        trials = [one.trial for claimed in self.steps for one in claimed]
        ranked = best_first(trials, maximize)
        return ranked[0] if ranked else None


class ChainSummary(NamedTuple):
    """Where one search of a study stands."""

    chain: int
    steps: int  # outer steps decided
    best_trial: int | None  # number of the chain's best complete trial
    best_value: float | None
    converged: bool
    windows: Mapping[str, tuple[int, ...]]
    """By schedule with ``windows="auto"``: how many parameters each shared window holds."""


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
            search = self._found[_numbers(used)] = self.beyond(search, used, steps).after
        return search

    def beyond(self, search: Search, used: Sequence[Claimed], steps: Steps) -> Decision:
        """One more decision about a search, which is not remembered."""
        learned = {**search.learned, **learned_by(used)}
        if learned == search.learned:
            return decide(search, used, self._rule, self._maximize)
        # New parameters and ranges bear on all decisions.
        all_used = [*outer.ancestry(steps, used[0].claim), used]
        return [*decisions(all_used, self._rule, self._maximize)][-1]


def decisions(used: Sequence[Sequence[Claimed]], rule: Rule, maximize: bool) -> Iterator[Decision]:
    """The outer steps of a search, given the trials that decided each, from the first on."""
    learned: dict[str, BaseDistribution] = {}
    for claimed in used:
        learned |= learned_by(claimed)
    search = Search.over(learned)
    for claimed in used:
        decision = decide(search, claimed, rule, maximize)
        yield decision
        search = decision.after


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
        given = parameter_setting(name, rule.start)
        return float(
            ranges.start()[0] if given is None else np.clip(given, ranges.low, ranges.high)[0]
        )
    rng = np.random.default_rng([*entropy, zlib.crc32(name.encode())])
    low, high = ranges.to_search(ranges.low), ranges.to_search(ranges.high)
    return float(ranges.to_natural(rng.uniform(low, high))[0])


def _numbers(used: Sequence[Claimed]) -> tuple[int, ...]:
    return tuple(one.trial.number for one in used)
