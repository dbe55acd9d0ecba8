"""What both samplers share: the trials of a study, read once each, and completed proposals."""

from __future__ import annotations

import copy
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from optuna_hypergrad.arguments import check_callable
from optuna_hypergrad.logger import logger
from optuna_hypergrad.reports.attributes import StoredDataError, with_backoff
from optuna_hypergrad.reports.objective import Report, write_constraints
from optuna_hypergrad.samplers.describe import describe_unreported
from optuna_hypergrad.schedules import parameter_names

D = TypeVar("D")  # a sampler's decision about a trial


class TrialReader(ABC, Generic[D]):
    """What is known of a study. Each reading takes in only what is new.

    A finished trial does not change, so it is added once. A running one is added again when the
    storage returns another object for it, as all storages do after a change. A new reader learns
    the same from the same trials.
    """

    def __init__(self) -> None:
        self.space: dict[str, BaseDistribution] | None = None
        """The parameters that all complete trials have; None before the first. Pruned trials may
        lack some."""
        self.pending: dict[int, D] = {}
        """Decisions of this process about trials that have not finished, by number."""
        self._began: datetime | None = None  # start of the first trial
        self._n_read = 0  # how many trials have been read
        self._open: dict[int, FrozenTrial | None] = {}  # those of them that had not finished

    @property
    def n_trials(self) -> int:
        """How many trials have been read, of all samplers."""
        return self._n_read

    @property
    def n_open(self) -> int:
        """How many of them had not finished."""
        return len(self._open)

    def read(self, trials: Sequence[FrozenTrial]) -> None:
        """Add what is new; ``trials`` are all of the study, by number.

        Raises:
            StoredDataError: If trials are missing, or a finished one contradicts the others.
        """
        if trials and trials[-1].number != len(trials) - 1:
            raise StoredDataError(
                f"the study's {len(trials)} trials end with number {trials[-1].number}; "
                "some were deleted from the storage."
            )
        changed = [trials[n] for n, known in self._open.items() if trials[n] is not known]
        for trial in (*changed, *trials[self._n_read :]):
            decision = self._read_decision(trial)
            has_basis = decision is None or self._has_basis(trial, decision, trials)
            self._add(trial, decision if has_basis else None)
            if trial.state.is_finished():
                self._close(trial)
            else:
                self._open[trial.number] = trial if has_basis else None
        self._n_read = len(trials)
        self._began = trials[0].datetime_start if trials else None

    def may_continue(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether ``trials`` may be those that were read, and more.

        A study that was deleted and created again may have the id of the old one.
        """
        is_same = self._began is None or trials[0].datetime_start == self._began
        return len(trials) >= self._n_read and is_same

    @abstractmethod
    def _read_decision(self, trial: FrozenTrial) -> D | None:
        """The sampler's decision about a trial; None for a trial of another sampler."""

    @abstractmethod
    def _basis(self, decision: D) -> tuple[Collection[int], int]:
        """Numbers of the finished trials that a decision was made from; how many steps or segments
        precede it, of one trial at least."""

    @abstractmethod
    def _add(self, trial: FrozenTrial, decision: D | None) -> None:
        """Add a trial that is new or has changed."""

    def _has_basis(self, trial: FrozenTrial, decision: D, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the trials that a decision was made from have been read.

        Databases read trials first and attributes later: a decision may have been written in
        between, about trials that still run in ``trials``. It counts from the next reading on.
        """
        basis, depth = self._basis(decision)
        missing = [n for n in basis if n >= len(trials) or not trials[n].state.is_finished()]
        if trial.state.is_finished() and missing:
            raise StoredDataError(
                f"trial {trial.number} is based on trials {missing}, which have not finished."
            )
        if trial.state.is_finished() and depth > len(trials):
            raise StoredDataError(
                f"trial {trial.number} comes after {depth} others, but there are {len(trials)}."
            )
        return not missing and depth <= len(trials)

    def _close(self, trial: FrozenTrial) -> None:
        self._open.pop(trial.number, None)
        self.pending.pop(trial.number, None)
        if trial.state == TrialState.COMPLETE:
            own = trial.distributions
            space = own if self.space is None else self.space
            self.space = {name: dist for name, dist in space.items() if own.get(name) == dist}


R = TypeVar("R", bound=TrialReader[Any])


class Memory(Generic[R]):
    """The reader of the study that was last asked about.

    Nothing is lost with it: another process, or a copy of the sampler, reads all trials again.

    Args:
        new: Makes an empty reader for a study; must be picklable, as samplers are.
    """

    def __init__(self, new: Callable[[Study], R]) -> None:
        self.new = new
        self._reader: R | None = None
        self._study: tuple[object, int] | None = None
        self._lock = threading.RLock()  # the threads of ``n_jobs`` share a sampler

    def __reduce__(self) -> tuple[type[Memory[R]], tuple[Callable[[Study], R]]]:
        return Memory, (self.new,)

    @contextmanager
    def reading(self, study: Study, is_enough: Callable[[R], bool] | None = None) -> Iterator[R]:
        """The reader of a study, locked against other threads.

        Args:
            study: The study.
            is_enough: Whether the reader knows enough already; if not, the storage is read. None
                to read it in any case.
        """
        with self._lock:
            key = (study._storage, study._study_id)
            reader = self._reader if self._study == key else None
            if reader is None or is_enough is None or not is_enough(reader):
                self._study = None  # until it has been read without an error
                reader = self._read(study, reader)
            self._reader, self._study = reader, key
            yield reader

    def _read(self, study: Study, reader: R | None) -> R:
        trials = with_backoff(
            "the trials of the study", partial(study._get_trials, deepcopy=False, use_cache=False)
        )
        if reader is None or not reader.may_continue(trials):
            reader = self.new(study)
        reader.read(trials)
        return reader


def finished_trial(
    study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
) -> FrozenTrial:
    """A trial as it will be stored; until ``after_trial`` has ended, it is stored as running.

    Its attributes are read again, since another sampler may have stored its constraints meanwhile.
    """
    finished = copy.copy(trial)
    finished.state, finished.values = state, None if values is None else [*values]
    what, read = f"the attributes of trial {trial.number}", study._storage.get_trial_system_attrs
    finished.system_attrs = with_backoff(what, read, trial._trial_id)
    return finished


ConstraintsFunc = Callable[[FrozenTrial], Sequence[float]]


class CompletedSampler(BaseSampler, Generic[R]):
    """Base of both samplers: their memory, and a sampler that completes their proposals.

    Args:
        independent_sampler: The user's; None for a default that is seeded for each draw.
        memory: What is known of the study.
        constraints_func: The user's, as Optuna's own samplers take it, or None.
    """

    def __init__(
        self,
        independent_sampler: BaseSampler | None,
        memory: Memory[R],
        constraints_func: ConstraintsFunc | None,
    ) -> None:
        if not isinstance(independent_sampler, BaseSampler | None):
            raise ValueError(
                f"independent_sampler must be a sampler or None, got {independent_sampler!r}."
            )
        if constraints_func is not None:
            check_callable("constraints_func", constraints_func)
            if hasattr(Trial, "set_constraint"):
                warnings.warn(_DEPRECATED, FutureWarning, stacklevel=3)
        self.memory = memory  # pruners and ``members`` read it, too
        self._independent = independent_sampler
        self._constraints_func = constraints_func
        self._unreported: set[str] = set()  # parameters that were logged as such
        self._has_warned_of_constraint = self._has_checked_names = False

    def reseed_rng(self) -> None:
        """Reseed the independent sampler; our own decisions depend on the trials alone."""
        if self._independent is not None:
            self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass the call on to the independent sampler."""
        if self._independent is not None:
            self._independent.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters that the complete trials have in common.

        Unlike Optuna's ``IntersectionSearchSpace``, which reads again from the first running trial
        on: that of a dead worker runs forever.
        """
        with self.remembering(study, trial) as reader:
            space = sorted((reader.space or {}).items())
        return {name: dist for name, dist in space if not dist.single()}

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Store the trial's constraints, and pass the call on to the independent sampler."""
        if self._constraints_func is not None and state in (TrialState.COMPLETE, TrialState.PRUNED):
            write_constraints(study._storage, trial._trial_id, self._constraints_func(trial))
        if self._independent is not None:
            self._independent.after_trial(study, trial, state, values)

    def remembering(self, study: Study, trial: FrozenTrial) -> AbstractContextManager[R]:
        """What was known when this process decided about ``trial``; else what is known now."""
        return self.memory.reading(study, lambda reader: trial.number in reader.pending)

    def _check_names(self, known: Collection[str], **given: Collection[str]) -> None:
        """Log, once, names that the user gave, by argument, and that are not known."""
        self._has_checked_names = True
        suggested = ", ".join(sorted(known)) or "nothing"
        for argument, names in given.items():
            for name in sorted({*names} - {*known}):
                logger.warning(
                    f"{type(self).__name__}: {argument} names {name!r}, which no trial has "
                    f"suggested; they have suggested {suggested}."
                )

    def _check_report(
        self,
        trial: FrozenTrial,
        report: Report,
        consequences: Mapping[str, Collection[str] | None],
    ) -> None:
        """Log which parameters a complete trial did not report; warn of an unknown constraint.

        Each is logged or warned of once.

        Args:
            trial: The trial.
            report: What it reported.
            consequences: What becomes of parameters without hypergradients, and of which
                parameters; None for all others.
        """
        for consequence, among in consequences.items() if report.gradient is not None else ():
            names = [n for n in _unreported(trial, report, among) if n not in self._unreported]
            if names:
                self._unreported.update(names)
                line = describe_unreported(trial.number, names, consequence)
                logger.info(line)
        unknown = [name for name in report.constraint_gradients if name not in report.constraints]
        if unknown and not self._has_warned_of_constraint:
            self._has_warned_of_constraint = True
            known = ", ".join(map(repr, report.constraints)) or "none"
            warnings.warn(_NO_CONSTRAINT.format(trial.number, unknown[0], known), stacklevel=3)


def _unreported(trial: FrozenTrial, report: Report, among: Collection[str] | None) -> list[str]:
    """The float parameters without a hypergradient; a schedule that has none is named itself."""
    known = report.parameters
    names = {
        name: name
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, FloatDistribution)
        and not distribution.single()
        and name not in known
        and (among is None or name in among)
    }
    for schedule, shape in report.schedules.items() if names else ():
        own = parameter_names(schedule, shape.size)
        if names.keys() >= {*own}:
            names |= dict.fromkeys(own, schedule)
    return [*dict.fromkeys(names.values())]


def propose(
    sampler: BaseSampler,
    study: Study,
    trial: FrozenTrial,
    space: Mapping[str, BaseDistribution],
) -> dict[str, Any]:
    """A value of each parameter of ``space``: jointly where the sampler can, else one by one."""
    common = sampler.infer_relative_search_space(study, trial)
    common = {name: dist for name, dist in common.items() if name in space}
    params = sampler.sample_relative(study, trial, common) if common else {}
    for name, distribution in space.items():
        if name not in params:
            params[name] = sampler.sample_independent(study, trial, name, distribution)
    return params


_NO_CONSTRAINT = (
    "Trial {} reported a hypergradient of the constraint {!r}, but its constraints are {}; give "
    "report_hypergradient(..., constraint=...) the name that trial.set_constraint was given, or "
    "'0', '1', … for the values of constraints_func."
)
_DEPRECATED = (
    "constraints_func: Optuna 5 deprecates it for all samplers, and 7 will remove it; call "
    "trial.set_constraint(name, value) in the objective instead."
)
