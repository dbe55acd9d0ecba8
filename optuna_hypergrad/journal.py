"""A lock that keeps a journal file whole when workers are killed."""

from __future__ import annotations

import os

from optuna.storages.journal import JournalFileSymlinkLock


class MendingLock(JournalFileSymlinkLock):
    """The lock of a journal file; whoever gets it removes the line that a killed writer began.

    A write that SIGKILL interrupts ends at a page of the file. Optuna would append the next record
    to what is left, and no worker could read the journal any more.

    Args:
        filepath: The journal file.
        grace_period: Seconds after which the lock of a worker that died with it is broken, and all
            others go on. Longer than any write takes; Optuna's default is 30.

    Example:
        >>> import optuna, tempfile
        >>> from optuna.storages.journal import JournalFileBackend
        >>> from optuna_hypergrad.journal import MendingLock
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/journal.log"
        ...     backend = JournalFileBackend(path, lock_obj=MendingLock(path, grace_period=5))
        ...     storage = optuna.storages.JournalStorage(backend)
        ...     study = optuna.create_study(storage=storage)
        ...     study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        ...     len(study.trials)
        3
    """

    def acquire(self) -> bool:
        """Wait for the lock, then see to the file's last line."""
        acquired = super().acquire()
        with open(self._lock_target_file, "rb+") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            if file.read(1) not in (b"\n", b""):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return acquired
