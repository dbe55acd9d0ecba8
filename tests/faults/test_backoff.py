"""Writes of ours that fail for a moment are written again, all at one place."""

import random
import re
from collections.abc import Callable
from typing import Any

import grpc
import optuna
import pytest
import redis
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from security.logs import logged

from optuna_hypergrad import GradientSampler, PopulationSampler
from optuna_hypergrad.reports import attributes
from samplers.studies import quadratic

pytestmark = pytest.mark.usefixtures("sign_descent")

SECRET = "postgresql://user:hunter2@host/db"
Sampler = Callable[..., optuna.samplers.BaseSampler]
samplers = pytest.mark.parametrize("sampler", [GradientSampler, PopulationSampler])


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause would have been."""
    found: list[float] = []
    monkeypatch.setattr(attributes.time, "sleep", found.append)
    return found


class FlakyStorage(InMemoryStorage):
    """Fails the first ``n`` attempts of each write of an attribute."""

    def __init__(self, n: int, error: Exception) -> None:
        super().__init__()
        self._n, self._error = n, error
        self.attempts: dict[tuple[int, str], int] = {}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._attempt(trial_id, key)
        super().set_trial_system_attr(trial_id, key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._attempt(trial_id, key)
        super().set_trial_user_attr(trial_id, key, value)

    def _attempt(self, trial_id: int, key: str) -> None:
        count = self.attempts[trial_id, key] = self.attempts.get((trial_id, key), 0) + 1
        if count <= self._n:
            raise self._error


def run(sampler: Sampler, storage: InMemoryStorage) -> list[dict[str, Any]]:
    study = optuna.create_study(study_name="study", storage=storage, sampler=sampler(seed=0))
    study.optimize(quadratic, n_trials=8)
    return [trial.params for trial in study.trials]


@samplers
def test_a_study_goes_on_as_if_nothing_had_happened(sampler: Sampler, pauses: list[float]) -> None:
    storage = FlakyStorage(2, StorageInternalError(SECRET))
    assert run(sampler, storage) == run(sampler, InMemoryStorage())
    assert set(storage.attempts.values()) == {3}
    assert len(pauses) == 2 * len(storage.attempts)


@samplers
def test_trouble_that_stays_is_raised_as_it_came(sampler: Sampler, pauses: list[float]) -> None:
    error = StorageInternalError("the disk is full")
    study = optuna.create_study(storage=FlakyStorage(10**6, error), sampler=sampler(seed=0))
    with pytest.raises(StorageInternalError) as caught:
        study.ask()
    assert caught.value is error
    assert len(pauses) == len(attributes.DELAYS)
    for pause, delay in zip(pauses, attributes.DELAYS, strict=True):
        assert 0.5 * delay <= pause <= 1.5 * delay


@pytest.mark.parametrize(
    "error",
    [
        UpdateFinishedTrialError("done"),
        KeyError(3),
        TypeError("set"),
        ValueError("x"),
        MemoryError(),
    ],
    ids=repr,
)
def test_what_would_fail_again_is_raised_at_once(error: Exception, pauses: list[float]) -> None:
    def write() -> None:
        raise error

    with pytest.raises(type(error)):
        attributes.with_backoff("an attribute", write)
    assert not pauses


@pytest.mark.parametrize(
    "error",
    [
        StorageInternalError("deadlock detected"),
        OSError(28, "No space left on device"),
        ConnectionResetError("peer"),
        TimeoutError("slow"),
        redis.exceptions.ConnectionError("refused"),
        redis.exceptions.TimeoutError("slow"),
        redis.exceptions.BusyLoadingError("loading"),
        grpc.RpcError("unavailable"),
    ],
    ids=repr,
)
def test_what_may_pass_is_known_by_its_kind(error: Exception, pauses: list[float]) -> None:
    failures = iter([error, error])

    def write() -> int:
        for failure in failures:
            raise failure
        return 3

    assert attributes.with_backoff("an attribute", write) == 3
    assert len(pauses) == 2


def test_the_log_tells_what_but_no_secrets(pauses: list[float]) -> None:
    with logged() as texts:
        run(GradientSampler, FlakyStorage(1, StorageInternalError(SECRET)))
    texts = [text for text in texts if "outer step" not in text]
    assert len(texts) == len(pauses)
    assert texts[0].startswith("hg:claim: StorageInternalError; retrying in 0.")
    assert not any(re.search("hunter2|user:|host|Traceback", text) for text in texts)


def test_random_numbers_of_the_objective_do_not_depend_on_faults(pauses: list[float]) -> None:
    random.seed(0)
    before = random.getstate()
    run(GradientSampler, FlakyStorage(1, StorageInternalError("away")))
    assert random.getstate() == before
