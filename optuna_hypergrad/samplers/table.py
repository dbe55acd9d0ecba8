"""The trial table as GradientSampler reads it: what to run next, and with which values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import Claim, read_drawn, read_gradient
from optuna_hypergrad.samplers import steps as outer
from optuna_hypergrad.samplers.chains import Search, replay, start_value
from optuna_hypergrad.samplers.distributions import to_distribution
from optuna_hypergrad.samplers.founders import best_first
from optuna_hypergrad.samplers.rule import Rule
from optuna_hypergrad.samplers.steps import Claimed, Steps


class Chain(NamedTuple):
    """One search of a study, up to its latest decision."""

    number: int
    steps: Steps
    decisions: Sequence[Sequence[Claimed]]
    search: Search

    @property
    def running(self) -> int:
        """How many trials run at the step that is to be decided next."""
        open_step = self.steps[len(self.decisions) :]
        return sum(not one.trial.state.is_finished() for claimed in open_step for one in claimed)

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


class Table:
    """A snapshot of a study's trials, by number.

    Args:
        trials: All trials of the study.
        rule: How chains start and move.
        maximize: The study's direction.
    """

    def __init__(self, trials: Sequence[FrozenTrial], rule: Rule, maximize: bool) -> None:
        self._trials, self._rule, self._maximize = trials, rule, maximize
        self._claimed = outer.claimed_trials(trials)
        self.reported = {name for trial in trials for name in read_gradient(trial) or {}}

    @property
    def reports_nothing(self) -> bool:
        """Whether the objective has ended well without ever reporting a hypergradient."""
        complete = any(one.trial.state == TrialState.COMPLETE for one in self._claimed)
        return complete and not self.reported

    def chain(self, number: int) -> Chain:
        """The chain of this number."""
        steps = outer.steps_of(self._claimed, number)
        decisions = outer.lineage(steps, self._rule.n_replicates)
        return Chain(number, steps, decisions, replay(decisions, self._rule, self._maximize))

    def summary(self, number: int) -> ChainSummary:
        """Where the chain of this number stands."""
        chain = self.chain(number)
        best = chain.best(self._maximize)
        return ChainSummary(
            chain=number,
            steps=len(chain.decisions),
            best_trial=None if best is None else best.number,
            best_value=None if best is None else best.value,
            converged=chain.search.has_converged(self._rule.tolerance),
            windows=chain.search.windows,
        )

    def next_claim(self, trial: int, n_chains: int, seed: int, from_best: bool) -> Claim:
        """What a trial should run: the step to be decided next in the chain furthest behind.

        A trial that runs at the step, or died there without a word, counts like a step ahead.
        """
        chains = [self.chain(number) for number in range(n_chains)]
        tolerance = self._rule.tolerance
        active = [c for c in chains if not c.search.has_converged(tolerance)] or chains
        chain = min(active, key=lambda c: (len(c.decisions) + c.running, c.number))
        used = chain.decisions[-1] if chain.decisions else ()
        first = chain.steps[0][0].claim if chain.steps else None
        start = self._start_trial(chain.number) if from_best else None
        return Claim(
            trial=trial,
            chain=chain.number,
            step=len(chain.decisions),
            seed=seed if first is None else first.seed,
            used=tuple(one.trial.number for one in used),
            agreement=outer.agreement(used),
            start=start if first is None else first.start,
            windows=chain.search.windows,
        )

    def entropy(self, claim: Claim) -> list[int]:
        """Seeds what the independent sampler draws for a claim; another draw after a failure."""
        steps = outer.steps_of(self._claimed, claim.chain)
        failures = sum(one.failed for one in steps[claim.step]) if claim.step < len(steps) else 0
        return [claim.seed, claim.chain, claim.step, failures]

    def params(
        self, claim: Claim, number: int, space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for a trial with this claim and number; what it leaves out is for another sampler.

        A replicate repeats what the first trial of its step has; otherwise the search moves the
        parameters with hypergradients, and floats start where hypergradients may still come.
        """
        steps = outer.steps_of(self._claimed, claim.chain)
        search = replay(outer.ancestry(steps, claim), self._rule, self._maximize)
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
                if known.get(name) in distribution.choices:
                    params[name] = known[name]
            elif name in known:
                params[name] = to_distribution(known[name], distribution)
            elif self._may_have_hypergradient(name, distribution, number):
                entropy = (claim.seed, claim.chain, search.restarts)
                value = start_value(name, distribution, self._rule, entropy)
                params[name] = to_distribution(value, distribution)
        return params

    def _may_have_hypergradient(
        self, name: str, distribution: BaseDistribution, number: int
    ) -> bool:
        """Whether one was reported, or may yet be for a float that no trial has had before."""
        if name in self.reported or not isinstance(distribution, FloatDistribution):
            return name in self.reported
        return not any(
            name in one.trial.params and one.gradient is not None
            for one in self._claimed
            if one.trial.number != number
        )

    def _start_trial(self, rank: int) -> int | None:
        own = {one.trial.number for one in self._claimed}
        foreign = [trial for trial in self._trials if trial.number not in own]
        ranked = best_first(foreign, self._maximize)
        return ranked[rank].number if rank < len(ranked) else None

    def _start_params(self, claim: Claim, search: Search) -> dict[str, Any]:
        if search.state is not None or claim.start is None or search.restarts:
            return {}
        return next((t.params for t in self._trials if t.number == claim.start), {})
