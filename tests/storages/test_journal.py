"""A journal file that a killed writer left with half a line."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

import databases
from databases import Address
from optuna_hypergrad.journal import MendingLock
from samplers.studies import quadratic
from storages.scenes import SAMPLERS


def torn_journal(folder: Path) -> tuple[Address, optuna.Study]:
    """A journal that ends in a half record, and a study that has read what is before."""
    address = Address("journal", str(folder / "journal.log"))
    study = optuna.create_study(
        study_name="torn", storage=databases.connect(address), sampler=SAMPLERS["gradient"]()
    )
    study.optimize(quadratic, n_trials=3)
    with open(address.url, "ab") as journal:
        journal.write(b'{"op_code":8,"worker_id":"killed","trial_id":2,"system_attr":{"hg:cla')
    return address, study


def test_the_study_goes_on_without_the_half_record(tmp_path: Path) -> None:
    address, study = torn_journal(tmp_path)
    study.optimize(quadratic, n_trials=3)
    again = optuna.load_study(study_name="torn", storage=databases.connect(address))
    assert [t.params for t in again.trials] == [t.params for t in study.trials]
    assert [t.number for t in again.trials] == list(range(6))
    assert b"killed" not in Path(address.url).read_bytes()


def test_with_the_lock_of_optuna_it_cannot_be_read_any_more(tmp_path: Path) -> None:
    address, _ = torn_journal(tmp_path)
    backend = JournalFileBackend(address.url)
    backend.append_logs([{"op_code": 0}, {"op_code": 0}])
    with pytest.raises(ValueError):
        list(backend.read_logs(0))


def test_the_lock_ends_with_the_worker_that_held_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.touch()
    holder = databases.PROCESSES.Process(target=_hold_and_die, args=(str(path),))
    holder.start()
    holder.join(timeout=60)
    assert holder.exitcode == -signal.SIGKILL
    lock = MendingLock(str(path))
    assert lock.acquire()
    assert path.read_bytes() == b"complete\n"
    lock.release()


def _hold_and_die(path: str) -> None:
    MendingLock(path).acquire()
    with open(path, "ab") as journal:
        journal.write(b"complete\nhalf")
    os.kill(os.getpid(), signal.SIGKILL)


def test_threads_take_the_lock_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.touch()

    def append(number: int) -> None:
        lock = MendingLock(str(path))
        for _ in range(50):
            lock.acquire()
            for part in (b"%d" % number, b"%d\n" % number):
                with open(path, "ab") as journal:
                    journal.write(part)
            lock.release()

    with ThreadPoolExecutor() as pool:
        list(pool.map(append, range(4)))
    lines = path.read_bytes().split()
    assert sorted(lines) == sorted(b"%d%d" % (n, n) for n in range(4) for _ in range(50))
    with pytest.raises(RuntimeError, match="is not held"):
        MendingLock(str(path)).release()
