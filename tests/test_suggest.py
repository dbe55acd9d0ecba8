"""A schedule name that is suggested twice in a trial."""

from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from optuna_hypergrad import GradientSampler, suggest_schedule

FIRST: dict[str, Any] = {"low": -1.0, "high": 1.0}


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize(
    "second",
    [
        {"low": 0.0},
        {"high": 0.99},
        {"windows": 2},
        {"form": "linear"},
        {"windows": "auto"},
        {"low": 0.1, "log": True},
    ],
)
def test_another_schedule_of_the_same_name_is_refused(second: dict[str, Any], windows: int) -> None:
    trial = optuna.create_study(sampler=GradientSampler(seed=0)).ask()
    first = {**FIRST, "windows": windows}
    suggest_schedule(trial, "lr", **first)
    params = dict(trial.params)
    with pytest.raises(ValueError, match="name: this trial has suggested 'lr' before"):
        suggest_schedule(trial, "lr", **{**first, **second})
    assert trial.params == params


@pytest.mark.parametrize("options", [{}, {"windows": 3}, {"windows": 2, "form": "linear"}])
def test_the_same_schedule_again_gives_the_same_values(options: dict[str, Any]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    first = suggest_schedule(trial, "lr", **FIRST, **options)
    with pytest.warns(UserWarning, match="'lr' is suggested twice in one trial"):
        assert suggest_schedule(trial, "lr", **FIRST, **options) == first
    assert trial.suggest_float("x", 0, 1) == trial.suggest_float("x", 0, 1)


def test_names_that_only_look_alike_are_different() -> None:
    trial = optuna.create_study().ask()
    suggest_schedule(trial, "lr", **FIRST, windows=2)
    suggest_schedule(trial, "lr_0_0", **FIRST)
    suggest_schedule(trial, "learning_rate", 0.0, 1.0)
    assert [*trial.params] == ["lr_0", "lr_1", "lr_0_0", "learning_rate"]


def test_a_schedule_and_a_parameter_of_one_name_are_refused() -> None:
    trial = optuna.create_study().ask()
    trial.suggest_float("lr", -1, 1)
    with pytest.raises(ValueError, match="with windows=1 instead of windows=2;"):
        suggest_schedule(trial, "lr", **FIRST, windows=2)
    trial.suggest_int("n", -1, 1)
    with pytest.raises(ValueError, match="with distribution=IntDistribution"):
        suggest_schedule(trial, "n", **FIRST)


@pytest.mark.parametrize(
    "first, second, message",
    [
        ({"low": 0.0}, {"low": 0.5}, "with low=0.0 instead of low=0.5;"),
        ({"windows": 3}, {"windows": 2}, "with windows=3 instead of windows=2;"),
        ({"windows": "auto"}, {"windows": 3}, "with windows='auto' instead of windows=3;"),
        ({"form": "linear"}, {"form": "cosine"}, "with form='linear' instead of form='cosine';"),
    ],
)
def test_the_error_names_only_the_arguments_that_differ(
    first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    trial = optuna.create_study().ask()
    suggest_schedule(trial, "lr", **{**FIRST, **first})
    with pytest.raises(ValueError, match=message):
        suggest_schedule(trial, "lr", **{**FIRST, **second})


def test_a_retried_trial_suggests_its_schedules_once() -> None:
    """Optuna gives it the parameters of the trial that failed before the objective begins."""
    study = optuna.create_study()
    shape = optuna.distributions.FloatDistribution(-1, 1)
    study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.WAITING, params={"lr": 0.5}, distributions={"lr": shape}
        )
    )
    assert suggest_schedule(study.ask(), "lr", **FIRST).values == (0.5,)


def test_each_trial_has_its_own_names() -> None:
    """Ranges may change between trials, and a frozen trial only returns its values."""
    study = optuna.create_study()
    suggest_schedule(study.ask(), "lr", **FIRST)
    suggest_schedule(study.ask(), "lr", 0.0, 1.0)
    frozen = optuna.create_trial(
        value=0.0,
        params={"lr": 0.5},
        distributions={"lr": optuna.distributions.FloatDistribution(-1, 1)},
    )
    assert suggest_schedule(frozen, "lr", 0.0, 1.0).values == (0.5,)
    fixed = FixedTrial({"lr": 0.5})
    suggest_schedule(fixed, "lr", **FIRST)
    with pytest.raises(ValueError, match="suggested 'lr' before"):
        suggest_schedule(fixed, "lr", 0.0, 1.0)


def test_a_parameter_of_another_kind_under_a_name_of_the_schedule_is_named() -> None:
    trial = optuna.create_study().ask()
    trial.suggest_int("lr_0", 1, 3)
    with pytest.raises(ValueError, match=r"has suggested 'lr_0' before, with distribution=IntD"):
        suggest_schedule(trial, "lr", 0.0, 1.0, windows=2)
