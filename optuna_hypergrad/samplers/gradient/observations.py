"""What the trials of a study say to the Gaussian process, whichever sampler ran them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from optuna_hypergrad.reports.objective import read_constraints
from optuna_hypergrad.reports.proposals import Proposal
from optuna_hypergrad.samplers.gradient.model import Model, Observation, SearchSpace

MAX_AVOIDED = 16  # failed trials, and running ones, whose points a model avoids
MAX_ASKING = 4  # running ones without parameters: those of workers that died remain so


class Observations:
    """The finished trials, and the proposals for those that run.

    Args:
        maximize: The study's direction.
    """

    def __init__(self, maximize: bool) -> None:
        self._maximize = maximize
        self._finished: list[Observation] = []  # those that say something, by number
        self._failed: list[FrozenTrial] = []  # those that do not, by number
        self._running: dict[int, Proposal] = {}
        self._asked: set[int] = set()  # trials that reported a hypergradient, or were to
        self._model: tuple[Any, Model] | None = None  # the last one, and what it was made for
        self.has_constraints = False
        """Whether a finished trial has any."""
        self.first_proposal: int | None = None
        """Number of the first trial that the Gaussian process proposed."""

    @property
    def n_asked(self) -> int:
        """How many trials have reported a hypergradient, or were to."""
        return len(self._asked)

    def begin(self, proposal: Proposal) -> None:
        """Take note of a decision about a running trial."""
        self._running[proposal.trial] = proposal
        if proposal.wants_hypergradient:
            self._asked.add(proposal.trial)
        first = self.first_proposal
        self.first_proposal = proposal.trial if first is None else min(first, proposal.trial)

    def end(self, trial: FrozenTrial) -> None:
        """Take note of what a finished trial says about its point."""
        self._running.pop(trial.number, None)
        observation = Observation.of(trial, self._maximize)
        if observation is not None:
            # Whoever reads the study, whenever, has them in the same order.
            insort(self._finished, observation, key=lambda one: one.trial.number)
        elif trial.params:
            insort(self._failed, trial, key=lambda one: one.number)
        self.has_constraints |= bool(read_constraints(trial))
        if observation is not None and observation.gradient:
            self._asked.add(trial.number)

    def model(self, space: Mapping[str, BaseDistribution]) -> Model:
        """The model of the finished trials, fitted once for the same trials and space."""
        key = len(self._finished), tuple(space.items())
        if self._model is None or self._model[0] != key:
            self._model = key, Model(SearchSpace(space), [*self._finished])
        return self._model[1]

    def avoided(self, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Trials whose points should not be proposed: the latest that run, and that failed.

        A failed trial says nothing about its loss; but its point should not be the next again.
        """
        return [*self._failed[-MAX_AVOIDED:], *running[-MAX_AVOIDED:]]

    def asking(
        self, number: int, trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]
    ) -> list[Proposal]:
        """Proposals for running trials before this number that lack parameters of the space."""
        lacking = (
            proposal
            for n, proposal in sorted(self._running.items())
            if n < number and not space.keys() <= trials[n].params.keys()
        )
        return [*lacking][-MAX_ASKING:]
