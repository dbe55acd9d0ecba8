"""What a sampler remembers of a study, so that an ask does not read all of it again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.study import Study

from optuna_hypergrad.samplers.family import Family


class Memory:
    """The family of the study that was last asked about.

    Nothing is lost with it: another process, or a copy of the sampler, reads the table for itself.
    """

    def __init__(self) -> None:
        self._study: tuple[object, int] | None = None
        self._family = Family()
        self._lock = threading.RLock()  # the threads of ``n_jobs`` share a sampler

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        return Memory, ()

    @contextmanager
    def family(self, study: Study) -> Iterator[Family]:
        """The family of a study, up to date."""
        with self._lock:
            trials = study._get_trials(deepcopy=False, use_cache=False)
            key = (study._storage, study._study_id)
            if key != self._study or len(trials) < self._family.n_trials:
                self._family = Family()
            self._study = None  # until it has been read without an error
            self._family.read(trials)
            self._study = key
            yield self._family
