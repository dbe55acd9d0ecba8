"""The outer steps of one search, as the trial table tells them.

A trial that a GradientSampler proposed claims a (chain, step). Several trials may claim the same:
replicates of parallel workers, retries of failed ones, enqueued points. Which of them decide the
step is worked out here, and frozen in the claims of the trials that stand on the decision.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from statistics import fmean
from typing import NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import (
    Claim,
    StoredDataError,
    read_claim,
    read_constraint_gradients,
    read_gradient,
    read_superfluous,
)

# A step of which this many trials failed is decided with what there is; failures count as diverged.
MAX_FAILURES = 3


class Claimed(NamedTuple):
    """A trial of a search, with what it claimed and what it reported."""

    trial: FrozenTrial
    claim: Claim
    gradient: dict[str, float] | None
    constraint_gradients: Mapping[str, Mapping[str, float]] = {}

    @classmethod
    def of(cls, trial: FrozenTrial, claim: Claim) -> Claimed:
        """A trial with what it has reported by now."""
        return cls(trial, claim, read_gradient(trial), read_constraint_gradients(trial))

    @property
    def learned(self) -> set[str]:
        """The parameters whose hypergradient it reported, be it of a constraint."""
        return {*(self.gradient or {})}.union(*self.constraint_gradients.values())

    @property
    def reports(self) -> bool:
        """Whether it reported any hypergradient."""
        return self.gradient is not None or bool(self.constraint_gradients)

    @property
    def diverged(self) -> bool:
        """Whether it ended where the search must not go on."""
        trial = self.trial
        if trial.state != TrialState.COMPLETE or self.has_marks:
            return True
        return trial.value is None or not math.isfinite(trial.value)

    @property
    def failed(self) -> bool:
        """Whether it ended by an error. A NaN loss ends so, too, but has reported NaN."""
        return self.trial.state == TrialState.FAIL and not self.has_marks

    @property
    def decides(self) -> bool:
        """Whether it finished and tells something about its point."""
        if self.is_superfluous:
            return False
        if not self.reports:  # only being pruned tells that the sampler's own point is bad
            return self.trial.state == TrialState.PRUNED and not self.is_enqueued
        return self.trial.state.is_finished() and not self.failed

    @property
    def is_superfluous(self) -> bool:
        """Whether it was pruned because nothing that it could report would change its step."""
        return self.trial.state == TrialState.PRUNED and read_superfluous(self.trial)

    @property
    def is_enqueued(self) -> bool:
        """Whether a user fixed parameters of it with ``study.enqueue_trial``."""
        return is_enqueued(self.trial)

    @property
    def has_marks(self) -> bool:
        """Whether it reported entries that are NaN or infinite."""
        return not all(map(math.isfinite, (self.gradient or {}).values()))


def is_enqueued(trial: FrozenTrial) -> bool:
    """Whether a user fixed parameters of a trial with ``study.enqueue_trial``."""
    return bool(trial.system_attrs.get("fixed_params"))


Steps = Sequence[Sequence[Claimed]]  # by outer step, the trials that claimed it, by number


def claimed_trials(trials: Iterable[FrozenTrial]) -> list[Claimed]:
    """The trials that hold a claim, by number."""
    pairs = ((trial, read_claim(trial.number, trial.system_attrs)) for trial in trials)
    return [Claimed.of(trial, claim) for trial, claim in pairs if claim is not None]


def steps_of(claimed: Iterable[Claimed], chain: int) -> list[list[Claimed]]:
    """The claimed steps of one chain, from its first to its latest."""
    steps: list[list[Claimed]] = []
    for one in claimed:
        if one.claim.chain == chain:
            place(steps, one)
    return steps


def place(steps: list[list[Claimed]], one: Claimed) -> None:
    """Put a trial into the step that it claimed, by number, or renew what is known of it there."""
    steps += [[] for _ in range(1 + one.claim.step - len(steps))]
    step, number = steps[one.claim.step], one.trial.number
    at = bisect_left(step, number, key=lambda other: other.trial.number)
    known = at < len(step) and step[at].trial.number == number
    step[at : at + known] = [one]


def latest(steps: Steps, n_replicates: int) -> list[Claimed]:
    """The trials that decided the latest decided step; none before the first decision.

    What a later trial stands on cannot change any more, whoever finishes late; only the latest
    step is open to decision.
    """
    if not steps:
        return []
    used = _decided_by(steps[-1], n_replicates)
    return used or stood_on(steps, _lead(steps[-1]).claim)


def silent(steps: Steps, used: Sequence[Claimed]) -> int:
    """How many trials were complete at the step that follows a decision, and reported nothing."""
    step = 1 + used[0].claim.step if used else 0
    claimed = steps[step] if step < len(steps) else ()
    complete = (one for one in claimed if one.trial.state == TrialState.COMPLETE)
    return sum(not one.reports for one in complete)


def ancestry(steps: Steps, claim: Claim) -> list[list[Claimed]]:
    """The decisions that a claim stands on, the first step's first.

    Read backwards: each claim names the trials that decided the step before its own.
    """
    decisions: list[list[Claimed]] = []
    while used := stood_on(steps, claim):
        decisions.append(used)
        claim = used[0].claim
    return decisions[::-1]


def anchor(steps: Steps, step: int, number: int) -> FrozenTrial | None:
    """The trial whose point replicates of ``step`` repeat, other than trial ``number`` itself."""
    alive = [
        one
        for one in (steps[step] if step < len(steps) else ())
        if (one.decides or not one.trial.state.is_finished())
        and one.trial.number != number
        and one.trial.params
    ]
    return _lead(alive).trial if alive else None


def agreement(used: Sequence[Claimed]) -> dict[str, float]:
    """|Mean sign| of the reported hypergradients, by parameter."""
    return {name: abs(fmean(np.sign(values))) for name, values in _reported(used).items()}


def mean_gradient(used: Sequence[Claimed]) -> dict[str, float]:
    """Mean hypergradient of the replicates, of those that did not diverge if there are any."""
    return {name: mean(values) for name, values in _reported(used).items()}


def mean(values: Sequence[float]) -> float:
    """Their mean, also where their sum is beyond all floats."""
    try:
        return fmean(values)
    except OverflowError:
        return fsum(value / len(values) for value in values)


def _reported(used: Sequence[Claimed]) -> dict[str, list[float]]:
    """The finite entries of the reports that count, by parameter."""
    sound = [one for one in used if not one.diverged] or used
    values: dict[str, list[float]] = {}
    for one in sound:
        for name, value in (one.gradient or {}).items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    return values


def _lead(claimed: Sequence[Claimed]) -> Claimed:
    """An enqueued point comes before a proposed one, then the lower number."""
    return min(claimed, key=lambda one: (not one.is_enqueued, one.trial.number))


def _decided_by(claimed: Sequence[Claimed], n_replicates: int) -> list[Claimed]:
    """The finished trials that ran the same point as the first of them; none if still too few.

    Where the step keeps failing, it is decided with what there is; also where a replicate was
    superfluous, since those that are outstanding then are, too.
    """
    failed = [one for one in claimed if one.failed]
    finished = [one for one in claimed if one.decides]
    used = [one for one in finished if same_point(one.trial, _lead(finished).trial)]
    if len(failed) >= MAX_FAILURES:
        return used or failed
    settled = any(o.is_superfluous and same_point(o.trial, u.trial) for u in used for o in claimed)
    return used if settled or len(used) >= n_replicates else []


def same_point(one: FrozenTrial, other: FrozenTrial) -> bool:
    """Whether two trials agree in all parameters that both have; a pruned one may lack some."""
    return all(one.params[name] == other.params[name] for name in one.params.keys() & other.params)


def stood_on(steps: Steps, claim: Claim) -> list[Claimed]:
    """The trials that decided the step before that of a claim; none for the first step.

    Raises:
        StoredDataError: If they are not the trials of that step.
    """
    if claim.step == 0:
        return []
    before = steps[claim.step - 1] if claim.step <= len(steps) else ()
    by_number = {one.trial.number: one for one in before if one.trial.state.is_finished()}
    if not claim.used or any(number not in by_number for number in claim.used):
        raise StoredDataError(
            f"a claim on step {claim.step} of chain {claim.chain} stands on trials "
            f"{list(claim.used)}, but those of step {claim.step - 1} that have finished are "
            f"{list(by_number)}."
        )
    return [by_number[number] for number in claim.used]
