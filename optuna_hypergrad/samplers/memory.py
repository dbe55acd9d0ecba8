"""What a sampler remembers of a study, so that an ask does not read all of it again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_hypergrad.reports.backoff import with_backoff
from optuna_hypergrad.samplers.reader import TrialReader

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
