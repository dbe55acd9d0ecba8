"""The trials of a study as GradientSampler reads them: which step runs next, with which values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports.arrays import has_array_gradient
from optuna_hypergrad.reports.claims import Claim, Rule, read_claim, read_drawn, stored_claim
from optuna_hypergrad.reports.objective import read_gradient, values_by_name
from optuna_hypergrad.reports.proposals import Proposal, read_proposal
from optuna_hypergrad.samplers.base import TrialReader
from optuna_hypergrad.samplers.distributions import start_value, to_distribution
from optuna_hypergrad.samplers.gradient.chains import (
    Chain,
    Steps,
    add_claimed,
    ancestry,
    deciding_trials,
    leading,
    used_by,
)
from optuna_hypergrad.samplers.gradient.observations import Observations
from optuna_hypergrad.samplers.gradient.search import (
    ClaimedTrial,
    Decision,
    Search,
    counted_reports,
    decide,
    decisions,
    reported_space,
)
from optuna_hypergrad.samplers.studies import best_first


class Table(TrialReader[Claim | Proposal]):
    """What a study's trials say about its searches.

    Args:
        rule: How searches start and move.
        maximize: The study's direction.
    """

    def __init__(self, rule: Rule, maximize: bool) -> None:
        super().__init__()
        self.rule, self.maximize = rule, maximize
        self.steps: dict[int, list[list[ClaimedTrial]]] = defaultdict(list)
        """The claimed trials, by chain and outer step."""
        self.reported: set[str] = set()
        """The parameters with a hypergradient in any trial."""
        self.observed = Observations(maximize)
        """What the finished trials of all samplers say to the Gaussian process."""
        self._trials: Sequence[FrozenTrial] = ()
        self._with_reports: set[str] = set()  # parameters that trials with hypergradients had
        self._has_completed = False  # whether a trial with a claim has, and no array reported
        self._decisions: dict[tuple[int, ...], Decision] = {}  # by the trials that decided
        self._claims: dict[int, tuple[Any, Claim | None]] = {}  # stored and parsed, while they run
        self._ended: dict[int, ClaimedTrial] = {}  # trials that are about to be stored so

    @property
    def lacks_reports(self) -> bool:
        """Whether trials have completed without any hypergradient."""
        return self._has_completed and not self.reported

    def read(self, trials: Sequence[FrozenTrial]) -> None:
        """Add what is new; ``trials`` are all of the study, by number."""
        super().read(trials)
        self._trials = trials

    def avoided(self, number: int) -> list[FrozenTrial]:
        """Trials whose points that of this number should avoid."""
        others = (self._trials[n] for n in sorted(self._open) if n != number)
        return self.observed.avoided([trial for trial in others if trial.params])

    def asking(self, number: int) -> list[Proposal]:
        """Earlier proposals whose trials lack parameters as yet."""
        return self.observed.asking(number, self._trials, self.space or {})

    def propose(self, proposal: Proposal) -> None:
        """Take note of a proposal of this process."""
        self.pending[proposal.trial] = proposal
        self.observed.begin(proposal)

    def begin(self, claim: Claim, stored: Mapping[str, Any]) -> None:
        """Take note of a claim of this process, and of how it is stored."""
        self.pending[claim.trial] = claim
        self._claims[claim.trial] = stored, claim

    def end(self, trial: FrozenTrial) -> ClaimedTrial | None:
        """Parse a trial that is about to be stored as finished; None without a claim of its own.

        Neither that nor the decisions made with it are repeated when the stored trial is read.
        """
        claim = self._read_claim(trial)
        if claim is None:
            return None
        self._ended[trial.number] = ClaimedTrial.of(trial, claim)
        return self._ended[trial.number]

    def chain(self, number: int, ended: ClaimedTrial | None = None) -> Chain:
        """The chain of this number, with a trial that is about to be stored as finished."""
        steps: list[list[ClaimedTrial]] = self.steps[number]
        if ended is not None and ended.claim.chain == number:
            steps, step = [*steps], ended.claim.step
            steps[step : step + 1] = [[*claimed] for claimed in steps[step : step + 1]]
            add_claimed(steps, ended)
        used = deciding_trials(steps, self.rule.n_replicates)
        return Chain(number, steps, used, self._search_after(used, steps))

    def decision_before(self, claim: Claim) -> Decision | None:
        """The outer step that a claim follows; None for the first step."""
        steps = self.steps[claim.chain]
        used = used_by(steps, claim)
        self._search_after(used, steps)
        return self._decisions[_numbers(used)] if used else None

    def best(self, ended: FrozenTrial | None = None) -> FrozenTrial | None:
        """The best complete trial of all samplers, with one that is about to be stored as such."""
        trials = self._trials
        if ended is not None:
            trials = [*(trial for trial in trials if trial.number != ended.number), ended]
        ranked = best_first(trials, self.maximize)
        return ranked[0] if ranked else None

    def next_claim(self, trial: int, n_chains: int, seed: int, from_best: bool) -> Claim:
        """What a trial should run: the next step of the chain that is furthest behind.

        A running trial counts like a step ahead, also if its worker died.
        """
        chains = [self.chain(number) for number in range(n_chains)]
        tolerance = self.rule.tolerance
        chains = [chain for chain in chains if not chain.has_converged(tolerance)] or chains
        chain = min(chains, key=_progress)
        seed, start = self._beginning(chain, seed, from_best)
        reports = (report.gradient or {} for report in counted_reports(chain.used))
        signs = {name: np.sign(values) for name, values in values_by_name(reports).items()}
        return Claim(
            trial=trial,
            chain=chain.number,
            step=chain.n_decided,
            seed=seed,
            used=tuple(one.trial.number for one in chain.used),
            agreement={name: abs(fmean(values)) for name, values in signs.items()},
            start=start,
            windows=chain.search.windows,
            rule=self.rule,
        )

    def lacks_point(self, claim: Claim, number: int) -> bool:
        """Whether others run the same step, but have no parameters yet that could be repeated."""
        others = [one for one in self.claimed(claim) if one.trial.number != number]
        runs = any(not one.trial.state.is_finished() for one in others)
        return runs and self._repeated(claim, number) is None

    def claimed(self, claim: Claim) -> Sequence[ClaimedTrial]:
        """The trials that claimed the same outer step."""
        steps = self.steps[claim.chain]
        return steps[claim.step] if claim.step < len(steps) else ()

    def entropy(self, claim: Claim) -> list[int]:
        """Seeds the independent sampler for a claim; a retry of a failed trial draws again."""
        n_failed = sum(one.failed for one in self.claimed(claim))
        return [claim.seed, claim.chain, claim.step, n_failed]

    def params(
        self, claim: Claim, number: int, space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for the trial of a claim; parameters that are missing are left to other samplers.

        A replicate repeats the first trial of its step. Otherwise the search moves the parameters
        with hypergradients, and floats that may still get one start.
        """
        steps = self.steps[claim.chain]
        search = self._search_after(used_by(steps, claim), steps)
        # Points of the search need no rounding in these ranges.
        moved = {} if search.state is None else search.space
        continuous = {n: d for n, d in moved.items() if getattr(d, "step", 1) is None}
        known = search.point()
        if claim.start is not None and search.state is None and not search.restarts:
            known = self._trials[claim.start].params
        repeated = self._repeated(claim, number)
        drawn = {} if repeated is None else read_drawn(repeated)
        params: dict[str, Any] = {}
        for name, distribution in space.items():
            if repeated is not None and name in repeated.params:
                drawn[name] = distribution.to_internal_repr(repeated.params[name])
            if name in drawn and distribution._contains(drawn[name]):
                params[name] = distribution.to_external_repr(drawn[name])
            elif isinstance(distribution, CategoricalDistribution):
                if name in known and known[name] in distribution.choices:
                    params[name] = known[name]
            elif name in known:
                is_exact = distribution == continuous.get(name)
                value = known[name]
                params[name] = value if is_exact else to_distribution(value, distribution)
            elif name in self.reported or self._is_new_float(name, distribution):
                entropy = (claim.seed, claim.chain, search.restarts)
                params[name] = start_value(name, distribution, self.rule.start, entropy)
        return params

    def _read_decision(self, trial: FrozenTrial) -> Claim | Proposal | None:
        claim = self._read_claim(trial)
        return claim or read_proposal(trial.number, trial.system_attrs)

    def _read_claim(self, trial: FrozenTrial) -> Claim | None:
        stored = stored_claim(trial)
        if stored is None:
            return None
        known = self._claims.get(trial.number)
        if known is None or known[0] != stored:
            known = stored, read_claim(trial.number, trial.system_attrs)
            self._claims[trial.number] = known
        return known[1]

    def _basis(self, decision: Claim | Proposal) -> tuple[Collection[int], int]:
        if isinstance(decision, Proposal):
            return (), 0
        start = () if decision.start is None else (decision.start,)
        return (*decision.used, *start), decision.step

    def _add(self, trial: FrozenTrial, decision: Claim | Proposal | None) -> None:
        if isinstance(decision, Proposal):
            self.observed.begin(decision)
        if trial.state.is_finished():
            self._claims.pop(trial.number, None)
            self.observed.end(trial)
        if not isinstance(decision, Claim):
            if trial.params:
                self.reported.update(read_gradient(trial) or ())
            return
        one = self._as_ended(trial) or ClaimedTrial.of(trial, decision)
        self.reported |= one.reported
        if one.has_report:
            self._with_reports.update(trial.params)
        is_complete = trial.state == TrialState.COMPLETE
        self._has_completed |= is_complete and not has_array_gradient(trial)
        add_claimed(self.steps[decision.chain], one)

    @property
    def free_space(self) -> dict[str, BaseDistribution]:
        """The parameters that all complete trials have and that may vary, by name."""
        space = sorted((self.space or {}).items())
        return {name: distribution for name, distribution in space if not distribution.single()}

    def _as_ended(self, trial: FrozenTrial) -> ClaimedTrial | None:
        """A trial as it was parsed when it ended, if it was stored just so."""
        if not trial.state.is_finished() or trial.number not in self._ended:
            return None
        one = self._ended.pop(trial.number)
        if _content(one.trial) == _content(trial):
            return one._replace(trial=trial)
        made = self._decisions.items()
        self._decisions = {used: found for used, found in made if trial.number not in used}
        return None

    def _search_after(self, used: Sequence[ClaimedTrial], steps: Steps) -> Search:
        """The search that continues from some trials, by the decisions before."""
        path = []
        while used and _numbers(used) not in self._decisions:
            path.append(used)
            used = used_by(steps, used[0].claim)
        search = self._decisions[_numbers(used)].after if used else Search.over({})
        for used in reversed(path):
            decision = self._decide(search, used, steps)
            self._decisions[_numbers(used)] = decision  # for good: finished trials do not change
            search = decision.after
        return search

    def _decide(self, search: Search, used: Sequence[ClaimedTrial], steps: Steps) -> Decision:
        if {**search.space, **reported_space(used)} == search.space:
            return decide(search, used, self.rule, self.maximize)
        # New parameters and ranges change all decisions.
        path = [*ancestry(steps, used[0].claim), used]
        return decisions(path, self.rule, self.maximize)[-1]

    def _repeated(self, claim: Claim, number: int) -> FrozenTrial | None:
        """The trial whose point a replicate repeats, other than the trial of this number."""
        alive = [
            one
            for one in self.claimed(claim)
            if (one.is_usable or not one.trial.state.is_finished())
            and one.trial.number != number
            and one.trial.params
        ]
        return leading(alive).trial if alive else None

    def _is_new_float(self, name: str, distribution: BaseDistribution) -> bool:
        """Whether no trial with hypergradients had this float, so that it may yet get one."""
        return isinstance(distribution, FloatDistribution) and name not in self._with_reports

    def _beginning(self, chain: Chain, seed: int, from_best: bool) -> tuple[int, int | None]:
        """Seed of a chain, and number of the trial that it starts from, if any."""
        if chain.steps and chain.steps[0]:
            first = chain.steps[0][0].claim
            return first.seed, first.start
        if not from_best:
            return seed, None
        foreign = [t for t in self._trials if read_claim(t.number, t.system_attrs) is None]
        ranked = best_first(foreign, self.maximize)
        return seed, ranked[chain.number].number if chain.number < len(ranked) else None


def _numbers(used: Sequence[ClaimedTrial]) -> tuple[int, ...]:
    return tuple(one.trial.number for one in used)


def _progress(chain: Chain) -> tuple[int, int]:
    n_running = sum(not one.trial.state.is_finished() for one in chain.next_trials)
    return chain.n_decided + n_running, chain.number


def _content(trial: FrozenTrial) -> tuple[Any, ...]:
    """All of a trial that a decision depends on."""
    return trial.state, trial.values, trial.params, trial.system_attrs, trial.user_attrs
