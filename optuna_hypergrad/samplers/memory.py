"""A study's trials, read once each.

What a sampler remembers of a study, so that an ask does not read all of it again.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Generic, TypeVar

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.reports import StoredDataError
from optuna_hypergrad.reports.backoff import with_backoff

D = TypeVar("D")  # what a sampler decides about a trial


class TrialReader(ABC, Generic[D]):
    """What is known of a study; each reading takes in only what is new in its trial table.

    What a finished trial says cannot change, so it is taken once. A running one is taken again
    when a storage hands out another object for it, as they all do after a change. A new reader
    learns the same from the same table.
    """

    def __init__(self) -> None:
        self.space: dict[str, BaseDistribution] | None = None
        """Parameters that all complete trials have had; None before the first. Pruned ones may
        have ended before they had them all."""
        self.decided: dict[int, D] = {}
        """What was decided in this process about trials that have not ended, by number."""
        self._began: datetime | None = None  # when the first trial did
        self._upto = 0  # trials below this number have been taken
        self._open: dict[int, FrozenTrial | None] = {}  # and these of them had not finished

    @property
    def n_trials(self) -> int:
        """How many trials it has taken, of whatever sampler."""
        return self._upto

    def knows(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether these may be the trials that it has read, and more.

        A study that was deleted and created again may have the id of the old one.
        """
        if len(trials) < self._upto:
            return False
        return self._began is None or trials[0].datetime_start == self._began

    @property
    def n_open(self) -> int:
        """How many of these had not finished."""
        return len(self._open)

    def read(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in what is new; ``trials`` are all of the study, by number.

        Raises:
            StoredDataError: If trials are missing, or one says what makes no sense.
        """
        if trials and trials[-1].number != len(trials) - 1:
            raise StoredDataError(
                f"the study's {len(trials)} trials end with number {trials[-1].number}; "
                "some were deleted from the storage."
            )
        changed = [trials[n] for n, known in self._open.items() if trials[n] is not known]
        for trial in (*changed, *trials[self._upto :]):
            decision = self._decision(trial)
            stands = decision is None or self._stands(trial, decision, trials)
            self._take(trial, decision if stands else None)
            self._file(trial, is_whole=stands)
        self._upto = len(trials)
        self._began = trials[0].datetime_start if trials else None

    @abstractmethod
    def _decision(self, trial: FrozenTrial) -> D | None:
        """What a sampler decided about a trial; None for one of another sampler."""

    @abstractmethod
    def _stands_on(self, decision: D) -> Collection[int]:
        """Numbers of the finished trials that a decision was made from."""

    @abstractmethod
    def _place(self, decision: D) -> int:
        """How many steps or segments, each a trial at least, came before it in its line."""

    @abstractmethod
    def _take(self, trial: FrozenTrial, decision: D | None) -> None:
        """Take in a trial that is new, or has changed."""

    def _stands(self, trial: FrozenTrial, decision: D, trials: Sequence[FrozenTrial]) -> bool:
        """Whether what a decision was made from is there.

        Databases read trials first and attributes after: a table may hold a decision that was
        written since, about trials that still run in it. It counts from the next reading on.
        """
        missing = [
            number
            for number in self._stands_on(decision)
            if number >= len(trials) or not trials[number].state.is_finished()
        ]
        place = self._place(decision)
        if trial.state.is_finished() and missing:
            raise StoredDataError(
                f"trial {trial.number} stands on trials {missing}, which have not finished."
            )
        if trial.state.is_finished() and place > len(trials):
            raise StoredDataError(
                f"trial {trial.number} comes after {place} others, but there are {len(trials)}."
            )
        return not missing and place <= len(trials)

    def _file(self, trial: FrozenTrial, is_whole: bool) -> None:
        """Note whether there may be more to come, and what the trial had if there is not."""
        if not trial.state.is_finished():
            self._open[trial.number] = trial if is_whole else None
            return
        self._open.pop(trial.number, None)
        self.decided.pop(trial.number, None)
        if trial.state == TrialState.COMPLETE:
            had = trial.distributions
            space = had if self.space is None else self.space
            self.space = {name: dist for name, dist in space.items() if had.get(name) == dist}


R = TypeVar("R", bound=TrialReader[Any])


class Memory(Generic[R]):
    """The reader of the study that was last asked about.

    Nothing is lost with it: another process, or a copy of the sampler, reads the table for itself.

    Args:
        new: A reader that knows nothing, for a study; must be picklable, as samplers are.
    """

    def __init__(self, new: Callable[[Study], R]) -> None:
        self.new = new
        self._reader: R | None = None
        self._study: tuple[object, int] | None = None
        self._lock = threading.RLock()  # the threads of ``n_jobs`` share a sampler

    def __reduce__(self) -> tuple[type[Memory[R]], tuple[Callable[[Study], R]]]:
        return Memory, (self.new,)

    @contextmanager
    def reading(self, study: Study, since: FrozenTrial | None = None) -> Iterator[R]:
        """What is known of a study, locked against the other threads.

        Args:
            study: The study.
            since: Be content with what was in the storage when this trial was decided about,
                which is known without reading where that was in this process.
        """
        with self._lock:
            key = (study._storage, study._study_id)
            reader = self._reader if self._study == key else None
            if reader is None or since is None or since.number not in reader.decided:
                self._study = None  # until it has been read without an error
                reader = self._read(study, reader)
            self._reader, self._study = reader, key
            yield reader

    def _read(self, study: Study, reader: R | None) -> R:
        trials = with_backoff(
            "the trials of the study", lambda: study._get_trials(deepcopy=False, use_cache=False)
        )
        if reader is None or not reader.knows(trials):
            reader = self.new(study)
        reader.read(trials)
        return reader
