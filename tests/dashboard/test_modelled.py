"""What publish leaves in a study whose trials a Gaussian process proposes."""

from typing import Any

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import get_note
from security.stores import MemoryStore

from optuna_hypergrad import (
    GradientSampler,
    best_schedules,
    publish,
    recommended,
    report_hypergradient,
    suggest_array,
    suggest_schedule,
    trial_seed,
)
from optuna_hypergrad.dashboard import figures
from optuna_hypergrad.schedules import Schedules
from samplers.studies import constrain


def noisy(trial: optuna.Trial) -> float:
    lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
    decay = trial.suggest_float("decay", 0.0, 1.0)
    errors = {name: value - 0.6 for name, value in lr.params.items()} | {"decay": decay - 0.2}
    report_hypergradient(trial, {name: 2 * error for name, error in errors.items()})
    return sum(error**2 for error in errors.values()) + trial_seed(trial) % 1000 / 10_000


def run(n_trials: int, function: Any = noisy, direction: str = "minimize") -> optuna.Study:
    sampler = GradientSampler(seed=1, strategy="gaussian_process")
    study = optuna.create_study(sampler=sampler, direction=direction)
    study.optimize(function, n_trials=n_trials)
    return study


def test_the_recommended_trial_of_a_study_with_arrays_is_named() -> None:
    study, store = optuna.create_study(sampler=GradientSampler(seed=1)), MemoryStore()
    losses = iter((0.9, 0.8, 0.2, 0.7, 0.5, 0.45, 0.5))  # the third was lucky

    def objective(trial: optuna.Trial) -> float:
        suggest_array(trial, "x", 0.0, 1.0, 2, step_size=0.05)
        report_hypergradient(trial, {"x": [1.0, -1.0]})
        return next(losses)

    study.optimize(objective, n_trials=7)
    publish(study, store)
    number = recommended(study).number
    assert number >= 4 and study.best_trial.number == 2
    assert f"Trial **{number}** is recommended, by the mean over similar arrays." in get_note(study)
    assert "Trial **2** has the best value" in get_note(study)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_recommended_trial_and_what_is_expected_of_it(direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    study, store = run(12, lambda trial: sign * noisy(trial), direction), MemoryStore()
    publish(study, store)
    trial = recommended(study)
    assert study.user_attrs == {
        "hg:best_trial": study.best_trial.number,
        "hg:recommended_trial": trial.number,
        "hg:losses": 12,
        "hg:hypergradients": len([t for t in study.trials if "hg:gradient" in t.system_attrs]),
    }
    note = get_note(study)
    assert "### Recommended schedule" in note
    assert f"Trial **{trial.number}** is recommended: its value was **{trial.value:.4g}**" in note
    expected = float(note.split("and **")[1].split("**")[0])
    assert abs(expected - trial.value) < 0.1  # the noise
    assert f"| {trial.params['lr_1']:.4g}" in note and f"| {trial.params['decay']:.4g}" in note
    texts = [store.files[meta.artifact_id].decode() for meta in get_all_artifact_meta(study)]
    assert best_schedules(study, trial.number) in map(Schedules.from_csv, texts[:1])


def test_figures_that_have_something_to_show() -> None:
    study = run(8)
    publish(study)
    shown = {f"hg-{name}" for name in ("convergence", "schedules", "hypergradients")}
    assert all(figures.stored_figure(study, id_) for id_ in shown)
    absent = ("hg-step-sizes", "hg-hypervariance", "hg-lineage")
    assert not any(figures.stored_figure(study, id_) for id_ in absent)


def test_of_few_trials_the_best_is_named() -> None:
    study = run(2)
    publish(study)
    assert f"Trial **{study.best_trial.number}** has the best value" in get_note(study)
    assert "is recommended" not in get_note(study)


def test_without_a_feasible_trial_the_closest_is_named() -> None:
    def infeasible(trial: optuna.Trial) -> float:
        constrain(trial, 1.5 + abs(trial.number - 1))
        return noisy(trial)

    study = run(6, infeasible)
    publish(study)
    assert "No trial is feasible; trial **1** is closest, by 1.5." in get_note(study)
