"""The trial table as GradientSampler reads it: what to run next, and with which values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import Claim, Rule, read_claim, read_drawn, read_gradient
from optuna_hypergrad.samplers.base import TrialReader
from optuna_hypergrad.samplers.distributions import to_distribution
from optuna_hypergrad.samplers.gradient import steps as outer
from optuna_hypergrad.samplers.gradient.chains import (
    Chain,
    ChainSummary,
    Searches,
    decisions,
    start_value,
)
from optuna_hypergrad.samplers.gradient.search import Decision, Search
from optuna_hypergrad.samplers.gradient.steps import Claimed
from optuna_hypergrad.samplers.ranking import best_first, rank_key


class Table(TrialReader[Claim]):
    """What a study's trials say about its searches.

    Args:
        rule: How chains start and move.
        maximize: The study's direction.
    """

    def __init__(self, rule: Rule, maximize: bool) -> None:
        super().__init__()
        self.rule, self._maximize = rule, maximize
        self._searches = Searches(rule, maximize)
        self._steps: dict[int, list[list[Claimed]]] = defaultdict(list)  # by chain
        self._trials: Sequence[FrozenTrial] = ()
        self._reported: set[str] = set()  # parameters with hypergradients
        self._beside: set[str] = set()  # parameters that trials with hypergradients had
        self._has_completed = False  # whether a trial with a claim has

    @property
    def reported(self) -> Collection[str]:
        """The parameters whose hypergradient was reported by a trial that has been read."""
        return self._reported

    def read(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in what is new; ``trials`` are all of the study, by number."""
        super().read(trials)
        self._trials = trials

    @property
    def reports_nothing(self) -> bool:
        """Whether the objective has ended well without ever reporting a hypergradient."""
        return self._has_completed and not self._reported

    @property
    def chains(self) -> list[int]:
        """The numbers of the chains that have begun."""
        return sorted(self._steps)

    def chain(self, number: int) -> Chain:
        """The chain of this number."""
        steps = self._steps[number]
        used = outer.latest(steps, self.rule.n_replicates)
        search = self._searches.after(used, steps)._replace(silent=outer.silent(steps, used))
        return Chain(number, steps, used, search)

    def search_with(self, number: int, finished: FrozenTrial) -> Search:
        """The search of the chain of this number once a trial is stored like this."""
        claim = read_claim(finished.number, finished.system_attrs)
        if claim is None or claim.chain != number:
            return self.chain(number).search
        steps = [*self._steps[number]]
        if claim.step < len(steps):
            steps[claim.step] = [*steps[claim.step]]
        outer.place(steps, Claimed.of(finished, claim))
        used = outer.latest(steps, self.rule.n_replicates)
        search = self._searches.after(outer.stood_on(steps, used[0].claim) if used else (), steps)
        if used:
            search = self._searches.beyond(search, used, steps).after
        return search._replace(silent=outer.silent(steps, used))

    def summary(self, number: int) -> ChainSummary:
        """Where the chain of this number stands."""
        chain = self.chain(number)
        best = chain.best(self._maximize)
        return ChainSummary(
            chain=number,
            steps=chain.decided,
            best_trial=None if best is None else best.number,
            best_value=None if best is None else best.value,
            converged=chain.search.has_converged(self.rule.tolerance),
            windows=chain.search.windows,
        )

    def best_with(self, finished: FrozenTrial) -> FrozenTrial | None:
        """The best trial of all once one is stored like this."""
        others = (trial for trial in self._trials if trial.number != finished.number)
        ranked = best_first([*others, finished], self._maximize)
        return ranked[0] if ranked else None

    def rank_key(self, number: int) -> tuple[float, ...]:
        """What sorts chains, the one with the best trial first."""
        best = self.chain(number).best(self._maximize)
        return (math.inf,) if best is None else rank_key(best, self._maximize)

    def decisions(self, number: int) -> list[Decision]:
        """The outer steps of the chain of this number that are decided.

        Each as the sampler saw it that went on from it: its arguments may have changed since.
        """
        steps = self._steps[number]
        used = outer.latest(steps, self.rule.n_replicates)
        if not used:
            return []
        path = [*outer.ancestry(steps, used[0].claim), used]
        rules = [*(claimed[0].claim.rule for claimed in path[1:]), self.rule]
        distinct = [rule for i, rule in enumerate(rules) if rule not in rules[:i]]
        found = [[*decisions(path, rule, self._maximize)] for rule in distinct]
        return [found[distinct.index(rule)][step] for step, rule in enumerate(rules)]

    def decision_before(self, claim: Claim) -> Decision | None:
        """The outer step that a claim stands on; None for the first step."""
        steps = self._steps[claim.chain]
        used = outer.stood_on(steps, claim)
        if not used:
            return None
        search = self._searches.after(outer.stood_on(steps, used[0].claim), steps)
        return self._searches.beyond(search, used, steps)

    def n_claimed(self, claim: Claim) -> int:
        """How many trials have claimed the same outer step."""
        steps = self._steps[claim.chain]
        return len(steps[claim.step]) if claim.step < len(steps) else 0

    def next_claim(self, trial: int, n_chains: int, seed: int, from_best: bool) -> Claim:
        """What a trial should run: the step to be decided next in the chain furthest behind.

        A trial that runs at the step, or died there without a word, counts like a step ahead.
        """
        chains = [self.chain(number) for number in range(n_chains)]
        tolerance = self.rule.tolerance
        active = [c for c in chains if not c.search.has_converged(tolerance)] or chains
        chain = min(active, key=lambda c: (c.decided + c.running, c.number))
        seed, start = self._beginning(chain, seed, from_best)
        return Claim(
            trial=trial,
            chain=chain.number,
            step=chain.decided,
            seed=seed,
            used=tuple(one.trial.number for one in chain.used),
            agreement=outer.agreement(chain.used),
            start=start,
            windows=chain.search.windows,
            rule=self.rule,
        )

    def may_repeat_another(self, claim: Claim, number: int) -> bool:
        """Whether others run the same step, but did not say yet at which point."""
        steps = self._steps[claim.chain]
        others = steps[claim.step] if claim.step < len(steps) else ()
        runs = any(not o.trial.state.is_finished() and o.trial.number != number for o in others)
        return runs and outer.anchor(steps, claim.step, number) is None

    def entropy(self, claim: Claim) -> list[int]:
        """Seeds what the independent sampler draws for a claim; another draw after a failure."""
        steps = self._steps[claim.chain]
        failures = sum(one.failed for one in steps[claim.step]) if claim.step < len(steps) else 0
        return [claim.seed, claim.chain, claim.step, failures]

    def params(
        self, claim: Claim, number: int, space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for a trial with this claim and number; what it leaves out is for another sampler.

        A replicate repeats what the first trial of its step has; otherwise the search moves the
        parameters with hypergradients, and floats start where hypergradients may still come.
        """
        steps = self._steps[claim.chain]
        search = self._searches.after(outer.stood_on(steps, claim), steps)
        anchor = outer.anchor(steps, claim.step, number)
        drawn = {} if anchor is None else read_drawn(anchor)
        known = {**self._start_params(claim, search), **search.point()}
        params: dict[str, Any] = {}
        for name, distribution in space.items():
            if anchor is not None and name in anchor.params:
                drawn[name] = distribution.to_internal_repr(anchor.params[name])
            if name in drawn and distribution._contains(drawn[name]):
                params[name] = distribution.to_external_repr(drawn[name])
            elif isinstance(distribution, CategoricalDistribution):
                if name in known and known[name] in distribution.choices:
                    params[name] = known[name]
            elif name in known:
                params[name] = to_distribution(known[name], distribution)
            elif self._may_have_hypergradient(name, distribution):
                entropy = (claim.seed, claim.chain, search.restarts)
                value = start_value(name, distribution, self.rule, entropy)
                params[name] = to_distribution(value, distribution)
        return params

    def _read_decision(self, trial: FrozenTrial) -> Claim | None:
        return read_claim(trial.number, trial.system_attrs)

    def _based_on(self, decision: Claim) -> Collection[int]:
        return decision.used if decision.start is None else (*decision.used, decision.start)

    def _depth(self, decision: Claim) -> int:
        return decision.step

    def _add(self, trial: FrozenTrial, decision: Claim | None) -> None:
        if decision is None:
            self._reported.update(read_gradient(trial) or ())
            return
        one = Claimed.of(trial, decision)
        self._reported |= one.learned
        if one.reports:
            self._beside.update(trial.params)
        self._has_completed |= trial.state == TrialState.COMPLETE
        outer.place(self._steps[decision.chain], one)

    def _may_have_hypergradient(self, name: str, distribution: BaseDistribution) -> bool:
        """Whether one was reported, or may yet be for a float that no trial has had before."""
        is_new = isinstance(distribution, FloatDistribution) and name not in self._beside
        return name in self._reported or is_new

    def _beginning(self, chain: Chain, seed: int, from_best: bool) -> tuple[int, int | None]:
        """Seed of a chain, and number of the trial it starts from, if it starts from one."""
        if chain.first is not None:
            return chain.first.seed, chain.first.start
        if not from_best:
            return seed, None
        foreign = [t for t in self._trials if read_claim(t.number, t.system_attrs) is None]
        ranked = best_first(foreign, self._maximize)
        return seed, ranked[chain.number].number if chain.number < len(ranked) else None

    def _start_params(self, claim: Claim, search: Search) -> dict[str, Any]:
        if search.state is not None or claim.start is None or search.restarts:
            return {}
        return self._trials[claim.start].params
