"""A lock for journal files that survives killed workers."""

from __future__ import annotations

import fcntl
import os

from optuna.storages.journal import JournalFileSymlinkLock


class MendingLock(JournalFileSymlinkLock):
    """Lock a journal file by ``flock``, and remove an incomplete record of a killed worker.

    Optuna's locks are separate files, which outlive a killed worker: all others wait for their
    grace period, and two that break the lock at the same time may both believe that they hold it.
    SIGKILL may also interrupt a write in the middle of a record; Optuna would append the next
    record to it, and no worker could read the journal any more. The kernel releases this lock when
    the process ends, and its next holder removes the incomplete record.

    All workers of a study must use the same kind of lock. It requires a POSIX system, and a file
    system on which ``flock`` works between all workers (a local one, or NFS from version 4 on).

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
        self._held: int | None = None  # file descriptor that holds the lock

    def acquire(self) -> bool:
        """Wait for the lock, then remove an incomplete last record."""
        descriptor = os.open(self._lock_target_file, os.O_RDWR)  # flock is per descriptor
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._held = descriptor
        with os.fdopen(os.dup(descriptor), "rb+") as journal:
            journal.seek(max(journal.seek(0, os.SEEK_END) - 1, 0))
            if journal.read(1) not in (b"\n", b""):
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Release the lock."""
        if self._held is None:
            raise RuntimeError("the lock of the journal file is not held.")
        descriptor, self._held = self._held, None
        os.close(descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_held": None}
