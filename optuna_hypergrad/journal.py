"""A lock for journal files that a killed worker neither keeps nor leaves half a record behind."""

from __future__ import annotations

import fcntl
import os

from optuna.storages.journal import JournalFileSymlinkLock


class MendingLock(JournalFileSymlinkLock):
    """Lock a journal file by ``flock``; whoever gets it removes what a killed writer began.

    Optuna's locks are files of their own, which outlive a killed worker: all others wait for their
    grace period, and two that break the lock at the same time may both believe they hold it. A
    write that SIGKILL interrupts ends at a page of the file; Optuna would append the next record
    to what is left, and no worker could read the journal any more. The kernel's lock ends with the
    process, and what is half written while one holds it is a dead worker's.

    All workers of a study must use the same kind of lock. It needs a POSIX system, and a file
    system on which ``flock`` works between all workers (a local one; NFS from version 4 on).

    Args:
        filepath: The journal file.

    Example:
        >>> import optuna, tempfile
        >>> from optuna.storages.journal import JournalFileBackend
        >>> from optuna_hypergrad.journal import MendingLock
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/journal.log"
        ...     backend = JournalFileBackend(path, lock_obj=MendingLock(path))
        ...     study = optuna.create_study(storage=optuna.storages.JournalStorage(backend))
        ...     study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        ...     len(study.trials)
        3
    """

    def __init__(self, filepath: str) -> None:
        super().__init__(filepath)
        self._held: int | None = None  # the descriptor that has the lock

    def acquire(self) -> bool:
        """Wait for the lock, then see to the file's last line."""
        descriptor = os.open(self._lock_target_file, os.O_RDWR)  # each has a lock of its own
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._held = descriptor
        with os.fdopen(os.dup(descriptor), "rb+") as journal:
            journal.seek(max(journal.seek(0, os.SEEK_END) - 1, 0))
            if journal.read(1) not in (b"\n", b""):
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Give the lock to whoever waits."""
        if self._held is None:
            raise RuntimeError("the lock of the journal file is not held.")
        descriptor, self._held = self._held, None
        os.close(descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_held": None}
