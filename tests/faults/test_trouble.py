"""Storages and artifact stores in trouble: a clear error or a pause, and nothing corrupted."""

import copy
import errno
import io
import re
import resource
import socket
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import pytest
import redis
import sqlalchemy
import torch
from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from security.logs import logged
from security.stores import MemoryStore
from sqlalchemy import text

import databases
import servers
from optuna_hypergrad import GradientSampler, PopulationSampler, lineage, members
from optuna_hypergrad.checkpoints import CheckpointError, UnreachableError, download
from optuna_hypergrad.reports import attributes
from optuna_hypergrad.reports.segments import read_checkpoint
from samplers.populations import assert_no_gaps, bowl, create, places, population_of
from samplers.studies import quadratic

pytestmark = pytest.mark.usefixtures("sign_descent")

Sampler = GradientSampler | PopulationSampler


def gradient() -> GradientSampler:
    return GradientSampler(seed=0)


def population() -> PopulationSampler:
    return PopulationSampler(seed=0, population_size=3)


samplers = pytest.mark.parametrize("new", [gradient, population])


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "DELAYS", (0.01, 0.01))


@contextmanager
def full_disk(size: int = 100) -> Iterator[None]:
    """No file of this process can be written beyond a size in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def suggest(trial: optuna.Trial) -> None:
    """What ``quadratic`` will ask for; it writes nothing then but its report."""
    for name in ("x", "y"):
        trial.suggest_float(name, -1, 1)
    trial.suggest_float("z", 1e-4, 1.0, log=True)


def assert_alike(study: optuna.Study, sampler: Sampler) -> None:
    """The study is what it would have been without any trouble."""
    other = optuna.create_study(study_name=study.study_name, sampler=sampler)
    other.optimize(quadratic, n_trials=len(study.trials))
    assert [t.params for t in study.trials] == [t.params for t in other.trials]
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


@samplers
@pytest.mark.parametrize("kind", ["postgresql", "mysql", "redis"])
def test_a_study_survives_dropped_connections(
    kind: str, new: Callable[[], Sampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = new()
    decide = sampler.before_trial
    with servers.fresh(kind) as address:
        if kind == "redis":
            address = address._replace(url=f"{address.url}?client_name={address.name}")
        storage = databases.connect(address)
        study = optuna.create_study(study_name="s", storage=storage, sampler=sampler)

        def before_trial(study: optuna.Study, trial: FrozenTrial) -> None:
            assert DROP[kind](address) > 0
            decide(study, trial)  # finds no connection to read the trials by

        def objective(trial: optuna.Trial) -> float:
            suggest(trial)
            assert DROP[kind](address) > 0
            return quadratic(trial)  # nor this one for its report

        monkeypatch.setattr(sampler, "before_trial", before_trial)
        study.optimize(objective, n_trials=3)
        assert_alike(study, new())
        databases.disconnect(storage)


def drop_postgresql(address: databases.Address) -> int:
    own = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with connection(address.url) as link:
        return len(link.execute(text(f"SELECT pg_terminate_backend(pid) {own}")).all())


def drop_mysql(address: databases.Address) -> int:
    own = "FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
    with connection(address.url) as link:
        found = link.execute(text(f"SELECT id {own}")).scalars().all()
        for number in found:
            link.execute(text(f"KILL {number}"))
        return len(found)


def drop_redis(address: databases.Address) -> int:
    with redis.Redis.from_url(address.url.partition("?")[0]) as client:
        own = [c for c in client.client_list() if c["name"] == address.name]
        for one in own:
            client.client_kill_filter(_id=one["id"])
        return len(own)


DROP: dict[str, Callable[[databases.Address], int]] = {
    "postgresql": drop_postgresql,
    "mysql": drop_mysql,
    "redis": drop_redis,
}


@contextmanager
def connection(url: str) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as link:
            yield link
    finally:
        engine.dispose()


# What makes a storage give up on a lock soon, and how another transaction holds one.
LOCKS: dict[str, tuple[dict[str, Any], str]] = {
    "sqlite": ({"timeout": 0.05, "check_same_thread": False}, "BEGIN EXCLUSIVE"),
    "postgresql": ({"options": "-c lock_timeout=100ms"}, "SELECT * FROM trials FOR UPDATE"),
    "mysql": (
        {"init_command": "SET innodb_lock_wait_timeout=1"},
        "SELECT * FROM trials FOR UPDATE",
    ),
}


@contextmanager
def locked(url: str, kind: str, seconds: float) -> Iterator[None]:
    """Another transaction holds a lock for a while."""
    options, lock = LOCKS[kind]
    engine = sqlalchemy.create_engine(url, connect_args=options)
    with engine.connect() as link:
        link.execute(text(lock))
        timer = threading.Timer(seconds, link.rollback)
        timer.start()
        yield
        timer.join()
    engine.dispose()


@pytest.mark.parametrize("kind", LOCKS)
def test_a_report_waits_for_the_lock_of_another_transaction(kind: str) -> None:
    with servers.fresh(kind) as address, logged() as messages:
        options = {"connect_args": LOCKS[kind][0]}
        storage = RDBStorage(address.url, engine_kwargs=options)
        study = optuna.create_study(study_name="s", storage=storage, sampler=gradient())

        def objective(trial: optuna.Trial) -> float:
            suggest(trial)
            with locked(address.url, kind, 0.3 if kind != "mysql" else 1.2):
                return quadratic(trial)

        study.optimize(objective, n_trials=2)
        assert_alike(study, gradient())
        storage.engine.dispose()
    assert any("of trial 0: StorageInternalError" in message for message in messages)


def test_a_full_disk_ends_the_study_and_costs_one_trial(tmp_path: Path, short_pauses: None) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, sampler=population())

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", -1, 1)
        with full_disk() if trial.number == 5 else nullcontext():
            return bowl(trial)

    with pytest.raises(StorageInternalError) as caught:
        study.optimize(objective, n_trials=9)
    assert "disk" in str(caught.value.__cause__)
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    study.optimize(objective, n_trials=9)
    assert [t.number for t in study.trials if t.state != TrialState.COMPLETE] == [5]
    assert_no_gaps(study)


def read_only(url: sqlalchemy.URL) -> sqlalchemy.URL:
    """The same database, through connections that write nothing."""
    if url.get_backend_name() == "sqlite":
        file = url.set(database=f"file:{url.database}")
        return file.update_query_dict({"mode": "ro", "uri": "true"})
    return url.update_query_dict({"options": "-c default_transaction_read_only=on"})


@pytest.mark.parametrize("kind, new", [("sqlite", gradient), ("postgresql", population)])
def test_a_read_only_storage_is_read_and_refuses_to_be_asked(
    kind: str, new: Callable[[], Sampler], short_pauses: None
) -> None:
    sampler = new()
    with servers.fresh(kind) as address:
        writable = databases.connect(address)
        study = optuna.create_study(study_name="s", storage=writable, sampler=sampler)
        study.optimize(quadratic, n_trials=4)
        url = read_only(sqlalchemy.make_url(address.url)).render_as_string(hide_password=False)
        storage = RDBStorage(url, skip_table_creation=True)
        read = optuna.load_study(study_name="s", storage=storage, sampler=sampler)
        if isinstance(sampler, GradientSampler):
            assert sampler.chains(read)[0].steps == 4
        else:
            assert len(lineage(read)) >= 1
        with pytest.raises(StorageInternalError) as caught:
            read.ask()
        assert re.search("read-?only", str(caught.value.__cause__))
        assert len(study.trials) == 4
        for used in (storage, writable):
            databases.disconnect(used)


def segment(trial: optuna.Trial, store: Any) -> float:
    """A segment that counts its steps in its checkpoint, which grows with them."""
    member = members.begin(trial, store)
    x = trial.suggest_float("x", -1, 1)
    steps = member.restore(rng=False).get("steps", 0) + 1
    assert steps == len(lineage(trial.study, member.parent) if steps > 1 else ()) + 1
    member.save(steps=steps, weights=torch.zeros(1000))
    return x**2 - steps


def assert_intact(study: optuna.Study, store: Any) -> None:
    """Whoever can be continued has a checkpoint, and no step of training was lost or repeated."""
    assert_no_gaps(study)
    removed = population_of(study).removed
    for trial in study.get_trials(states=[TrialState.COMPLETE]):
        if trial.number not in removed:
            checkpoint = read_checkpoint(trial)
            assert checkpoint is not None
            parts = download(store, checkpoint)["parts"]
            assert parts["steps"] == len(lineage(study, trial.number))


@pytest.mark.parametrize(
    "error, own",
    [
        (ConnectionRefusedError("store is down"), UnreachableError),
        (RuntimeError("403 from the object store"), RuntimeError),  # as botocore's, no OSError
    ],
    ids=repr,
)
def test_an_unreachable_artifact_store_costs_its_trials_only(
    error: Exception, own: type[Exception]
) -> None:
    store, study = MemoryStore(), create()

    def objective(trial: optuna.Trial) -> float:
        store.error = error if 6 <= trial.number < 8 else None
        return segment(trial, store)

    with pytest.raises(own, match=str(error)):
        study.optimize(objective, n_trials=20)
    study.optimize(objective, n_trials=20, catch=type(error) if own is RuntimeError else own)
    assert [t.number for t in study.trials if t.state == TrialState.FAIL] == [6, 7]
    assert_intact(study, store)


def test_a_full_disk_costs_the_trial_that_saves(tmp_path: Path) -> None:
    store, study = FileSystemArtifactStore(tmp_path), create()

    def objective(trial: optuna.Trial) -> float:
        with full_disk(2000) if trial.number == 7 else nullcontext():
            return segment(trial, store)

    study.optimize(objective, n_trials=20, catch=OSError)
    assert [t.number for t in study.trials if t.state == TrialState.FAIL] == [7]
    assert_intact(study, store)


class TornStore(FileSystemArtifactStore):
    """Leaves half of every third file, and says so or not."""

    def __init__(self, folder: Path, says_so: bool) -> None:
        super().__init__(folder)
        self._says_so, self._written = says_so, 0

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        data = content_body.read()
        self._written += 1
        is_torn = self._written % 3 == 0
        super().write(artifact_id, io.BytesIO(data[: len(data) // 2] if is_torn else data))
        if is_torn and self._says_so:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_half_written_checkpoint_is_never_reported(tmp_path: Path) -> None:
    store, study = TornStore(tmp_path, says_so=True), create()
    study.optimize(lambda trial: segment(trial, store), n_trials=20, catch=OSError)
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert len(failed) == 6 and all(read_checkpoint(trial) is None for trial in failed)
    assert_intact(study, store)


def test_a_checkpoint_that_was_torn_silently_is_given_up(tmp_path: Path) -> None:
    store, study = TornStore(tmp_path, says_so=False), create()

    def objective(trial: optuna.Trial) -> float:
        member = members.begin(trial, store)
        x = trial.suggest_float("x", -1, 1)
        steps = member.restore(rng=False).get("steps", 0) + 1
        member.save(steps=steps)
        return x**2 - steps

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "trial .* restores the checkpoint")
        study.optimize(objective, n_trials=30, catch=CheckpointError)
    assert_no_gaps(study)
    ended = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(ended) > 20 and max(population_of(study).progress(i) for i in range(3)) > 4


def skewed(study: optuna.Study, minutes: Callable[[int], int]) -> optuna.Study:
    """The same study as workers with other clocks would have stored it."""
    trials = study.get_trials()
    for trial in trials:
        skew = timedelta(minutes=minutes(trial.number))
        assert trial.datetime_start is not None
        trial.datetime_start += skew
        if trial.datetime_complete is not None:
            trial.datetime_complete += skew
    other = optuna.create_study(study_name=study.study_name, sampler=copy.copy(study.sampler))
    other.add_trials(trials)
    return other


@samplers
def test_clocks_decide_nothing(new: Callable[[], Sampler]) -> None:
    study = optuna.create_study(study_name="s", sampler=new())
    study.optimize(quadratic, n_trials=6)
    other = skewed(study, lambda number: -10 if number % 2 else 10)
    other.optimize(quadratic, n_trials=6)
    assert_alike(other, new())


@pytest.mark.parametrize("minutes, is_taken_over", [(-10, True), (0, False), (10, False)])
def test_a_timeout_is_as_exact_as_the_clocks_and_spoils_nothing(
    minutes: int, is_taken_over: bool
) -> None:
    study = create(timeout=300.0)
    study.optimize(bowl, n_trials=4)
    study.ask()
    other = skewed(study, lambda number: minutes if number == 4 else 0)
    trial = other.ask()
    assert (places(other)[5] == places(other)[4]) is is_taken_over
    other.tell(trial, bowl(trial))
    other.tell(4, 1.0)  # the slow worker comes back
    other.optimize(bowl, n_trials=9)
    assert_no_gaps(other)


@contextmanager
def served(url: str, port: int) -> Iterator[None]:
    """A gRPC proxy in a process of its own, which is killed in the end."""
    server = databases.PROCESSES.Process(target=databases._serve, args=(url, port))
    server.start()
    try:
        yield
    finally:
        server.kill()
        server.join()


def test_a_study_survives_a_proxy_that_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributes, "DELAYS", (0.2,) * 100)  # however busy this machine is
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, address = f"sqlite:///{tmp_path}/study.db", databases.Address("grpc", str(port))
    with served(url, port):
        storage = databases.connect(address)
        study = optuna.create_study(study_name="s", storage=storage, sampler=gradient())
        study.optimize(quadratic, n_trials=2)
        trial = study.ask()
        suggest(trial)
    with served(url, port):
        study.tell(trial, quadratic(trial))  # its report comes before the new proxy is ready
        study.optimize(quadratic, n_trials=2)
        assert_alike(study, gradient())
        databases.disconnect(storage)
