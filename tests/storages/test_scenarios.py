"""Every scenario on every storage, with both samplers."""

import optuna
import pytest

from storages.scenes import (
    SAMPLERS,
    Place,
    assert_whole,
    create,
    objective,
    proposals,
    run_workers,
    undisturbed,
)

pytestmark = pytest.mark.parametrize("sampler", SAMPLERS)


def test_four_workers_run_six_trials_each(place: Place, sampler: str) -> None:
    study = create(place, sampler, "four workers")
    run_workers(place, study, sampler, 6, 6, 6, 6)
    assert_whole(study, sampler, 24)


@pytest.mark.slow
def test_four_workers_run_sixty_trials_each(place: Place, sampler: str) -> None:
    study = create(place, sampler, "four workers for long")
    run_workers(place, study, sampler, 60, 60, 60, 60)
    assert_whole(study, sampler, 240)


def test_one_worker_proposes_the_same_as_in_memory(place: Place, sampler: str) -> None:
    study = create(place, sampler, "one worker")
    run_workers(place, study, sampler, 8)
    assert proposals(study) == undisturbed(sampler, 8)


def test_a_restart_in_the_middle_changes_nothing(place: Place, sampler: str) -> None:
    study = create(place, sampler, "restart")
    for n_trials in (7, 5):
        run_workers(place, study, sampler, n_trials)
    assert proposals(study) == undisturbed(sampler, 12)
    assert_whole(study, sampler, 12)


def test_n_jobs(place: Place, sampler: str) -> None:
    study = create(place, sampler, "n_jobs")
    study.optimize(objective, n_trials=12, n_jobs=4)
    assert_whole(study, sampler, 12)


def test_ask_and_tell(place: Place, sampler: str) -> None:
    study = create(place, sampler, "ask and tell")
    for _ in range(8):
        trial: optuna.Trial = study.ask()
        study.tell(trial, objective(trial))
    assert proposals(study) == undisturbed(sampler, 8)
    assert_whole(study, sampler, 8)
