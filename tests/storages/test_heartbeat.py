"""Databases with a heartbeat: the trial of a dead worker is retried and resumes what it claimed."""

import os
import signal
import time
import warnings
from collections.abc import Iterator

import optuna
import pytest
from optuna import storages
from optuna.trial import TrialState

import databases
import servers
from databases import Address
from samplers.populations import assert_no_gaps
from samplers.studies import points, quadratic
from storages.scenes import SAMPLERS

DIES = 3  # number of the trial in which the worker dies
KEYS = {"gradient": "hg:claim", "population": "hg:segment"}


def connect(address: Address) -> storages.RDBStorage:
    name = "RetryHeartbeatStaleTrialCallback"  # since Optuna 4.9
    renamed = hasattr(storages, name)
    retry = getattr(storages, name if renamed else "RetryFailedTrialCallback")
    option = "heartbeat_stale_trial_callback" if renamed else "failed_trial_callback"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return storages.RDBStorage(
            address.url, heartbeat_interval=1, grace_period=2, **{option: retry(max_retry=2)}
        )


def mortal(trial: optuna.Trial) -> float:
    if trial.number == DIES:
        trial.suggest_float("x", -1, 1)
        time.sleep(1)  # until the first heartbeat is stored
        os.kill(os.getpid(), signal.SIGKILL)
    return quadratic(trial)


def work(address: Address, sampler: str) -> None:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name=sampler, storage=connect(address), sampler=SAMPLERS[sampler]()
    )
    study.optimize(mortal, n_trials=10)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def orphaned(request: pytest.FixtureRequest) -> Iterator[storages.RDBStorage]:
    """A database with a study of each sampler, whose worker was killed and is known to be dead."""
    with servers.fresh(request.param) as address:
        storage = connect(address)
        studies = [optuna.create_study(study_name=name, storage=storage) for name in SAMPLERS]
        workers = [databases.PROCESSES.Process(target=work, args=(address, n)) for n in SAMPLERS]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == -signal.SIGKILL
        deadline = time.monotonic() + 30
        while any(not storage._get_stale_trial_ids(study._study_id) for study in studies):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield storage
        databases.disconnect(storage)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_retried_trial_resumes_its_claim(orphaned: storages.RDBStorage, sampler: str) -> None:
    study = optuna.load_study(study_name=sampler, storage=orphaned, sampler=SAMPLERS[sampler]())
    study.optimize(quadratic, n_trials=8)
    dead, retried, *others = study.trials[DIES:]
    assert dead.state == TrialState.FAIL and retried.system_attrs["failed_trial"] == DIES
    if sampler != "gaussian process":  # which decides anew, about the same parameters
        key = KEYS[sampler]
        assert retried.system_attrs[key] == dead.system_attrs[key]
    assert retried.params["x"] == dead.params["x"]
    assert all(trial.state == TrialState.COMPLETE for trial in (retried, *others))
    if sampler == "population":
        assert_no_gaps(study)
    elif sampler == "gradient":
        alone = optuna.create_study(sampler=SAMPLERS[sampler]())
        alone.optimize(quadratic, n_trials=DIES + 8)
        assert points(study)[:DIES] + points(study)[DIES + 1 :] == points(alone)
