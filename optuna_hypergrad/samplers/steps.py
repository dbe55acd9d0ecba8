"""The outer steps of one search, as the trial table tells them.

A trial that a GradientSampler proposed claims a (chain, step). Several trials may claim the same:
replicates of parallel workers, retries of failed ones, enqueued points. Which of them decide the
step is worked out here, once, and frozen by the first claim on the step after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import Claim, StoredDataError, read_claim, read_gradient

# A step of which this many trials failed, and none told anything, counts as diverged.
MAX_FAILURES = 3


class Claimed(NamedTuple):
    """A trial of a search, with what it claimed and what it reported."""

    trial: FrozenTrial
    claim: Claim
    gradient: dict[str, float] | None

    @property
    def diverged(self) -> bool:
        """Whether it ended in a place where nothing is to be learned."""
        trial = self.trial
        if trial.state in (TrialState.PRUNED, TrialState.FAIL):
            return True
        finite = all(map(math.isfinite, (self.gradient or {}).values()))
        return not finite or trial.value is None or not math.isfinite(trial.value)

    @property
    def failed(self) -> bool:
        """Whether it ended without telling anything about its point."""
        if self.trial.state == TrialState.FAIL:  # a NaN loss fails, too, but has reported NaN
            return self.gradient is None or all(map(math.isfinite, self.gradient.values()))
        return self.trial.state == TrialState.COMPLETE and self.gradient is None

    @property
    def decides(self) -> bool:
        """Whether it finished and tells something about its point."""
        return self.trial.state.is_finished() and not self.failed

    @property
    def is_enqueued(self) -> bool:
        """Whether a user fixed parameters of it with ``study.enqueue_trial``."""
        return bool(self.trial.system_attrs.get("fixed_params"))


Steps = Sequence[Sequence[Claimed]]  # by outer step, the trials that claimed it, by number


def claimed_trials(trials: Iterable[FrozenTrial]) -> list[Claimed]:
    """The trials that hold a claim, by number."""
    pairs = ((trial, read_claim(trial.number, trial.system_attrs)) for trial in trials)
    return [Claimed(t, claim, read_gradient(t)) for t, claim in pairs if claim is not None]


def steps_of(claimed: Iterable[Claimed], chain: int) -> list[list[Claimed]]:
    """The claimed steps of one chain, from its first to its latest."""
    own = [one for one in claimed if one.claim.chain == chain]
    steps: list[list[Claimed]] = []
    for one in own:
        steps += [[] for _ in range(1 + one.claim.step - len(steps))]
        steps[one.claim.step].append(one)
    return steps


def lineage(steps: Steps, n_replicates: int) -> list[list[Claimed]]:
    """The trials that decided each step, from the first step to the latest decided one.

    What a later trial stands on cannot change any more, whoever finishes late; only the latest
    step is open to decision.
    """
    if not steps:
        return []
    used = _decided_by(steps[-1], n_replicates)
    stands = used[0] if used else _lead(steps[-1])
    return ancestry(steps, stands.claim) + ([used] if used else [])


def ancestry(steps: Steps, claim: Claim) -> list[list[Claimed]]:
    """The decisions that a claim stands on, the first step's first.

    Read backwards: each claim names the trials that decided the step before its own.
    """
    decisions: list[list[Claimed]] = []
    for step in reversed(range(claim.step)):
        decisions.append(_stood_on(claim, step, steps))
        claim = decisions[-1][0].claim
    return decisions[::-1]


def anchor(steps: Steps, step: int, number: int) -> FrozenTrial | None:
    """The trial whose point replicates of ``step`` repeat, other than trial ``number`` itself."""
    alive = [
        one
        for one in (steps[step] if step < len(steps) else ())
        if not one.failed and one.trial.number != number and one.trial.params
    ]
    return _lead(alive).trial if alive else None


def agreement(used: Sequence[Claimed]) -> dict[str, float]:
    """|Mean sign| of the reported hypergradients, by parameter."""
    reports = [one.gradient for one in used if one.gradient and not one.diverged]
    names = {name for report in reports for name in report}
    return {
        name: float(abs(np.mean([np.sign(r[name]) for r in reports if name in r])))
        for name in sorted(names)
    }


def mean_gradient(used: Sequence[Claimed]) -> dict[str, float]:
    """Mean hypergradient of the replicates that did not diverge, by parameter."""
    reports = [one.gradient for one in used if one.gradient and not one.diverged]
    names = {name for report in reports for name in report}
    return {name: float(np.mean([r[name] for r in reports if name in r])) for name in names}


def _lead(claimed: Sequence[Claimed]) -> Claimed:
    """An enqueued point comes before a proposed one, then the lower number."""
    return min(claimed, key=lambda one: (not one.is_enqueued, one.trial.number))


def _decided_by(claimed: Sequence[Claimed], n_replicates: int) -> list[Claimed]:
    """The finished trials that ran the same point as the first of them; none if still too few."""
    finished = [one for one in claimed if one.decides]
    if finished:
        point = _lead(finished).trial.params
        used = [one for one in finished if one.trial.params == point]
        return used if len(used) >= n_replicates else []
    failed = [one for one in claimed if one.failed]
    return failed if len(failed) >= MAX_FAILURES else []


def _stood_on(claim: Claim, step: int, steps: Steps) -> list[Claimed]:
    by_number = {one.trial.number: one for one in (steps[step] if step < len(steps) else ())}
    if not claim.used or any(number not in by_number for number in claim.used):
        raise StoredDataError(
            f"a claim on step {step + 1} of chain {claim.chain} stands on trials "
            f"{list(claim.used)}, but step {step} is that of trials {list(by_number)}."
        )
    return [by_number[number] for number in claim.used]
