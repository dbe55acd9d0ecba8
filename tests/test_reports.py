import json
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FixedTrial

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    report_hypergradient,
    trial_seed,
    wants_hypergradient,
)
from optuna_hypergrad.reports import StoredDataError, report_refined
from optuna_hypergrad.reports.claims import Claim, Rule, read_claim, write_claim
from optuna_hypergrad.reports.objective import Shape, read_gradient, read_shapes, report_shape


def asked(sampler: optuna.samplers.BaseSampler | None = None) -> tuple[Any, optuna.Trial]:
    study = optuna.create_study(sampler=sampler or optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    for name in ("x", "y"):
        trial.suggest_float(name, -1, 1)
    trial.suggest_categorical("c", ["a", "b"])
    trial.suggest_int("n", 1, 5)
    return study, trial


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        np.float32(2),
        np.int64(2),
        np.array(2.0),
        np.array([2.0]),
        torch.tensor(2.0),
        torch.tensor([[2.0]], requires_grad=True),
        torch.tensor(2.0, dtype=torch.bfloat16),
    ],
    ids=repr,
)
def test_numbers_of_all_kinds_are_read_back_as_floats(value: Any) -> None:
    study, trial = asked()
    report_hypergradient(trial, {"x": value, "n": -0.5})
    gradient = read_gradient(study.trials[0])
    assert gradient == {"x": 2.0, "n": -0.5}
    assert all(type(v) is float for v in gradient.values())


def test_values_that_are_not_finite_are_marked_in_strict_json() -> None:
    study, trial = asked()
    report_hypergradient(trial, {"x": float("nan"), "y": -np.inf, "n": torch.tensor(torch.inf)})
    stored = study.trials[0].user_attrs
    json.dumps(stored, allow_nan=False)
    gradient = read_gradient(study.trials[0])
    assert np.isnan(gradient["x"]) and gradient["y"] == -np.inf and gradient["n"] == np.inf


def test_the_norm_is_a_scalar_for_the_dashboard() -> None:
    study, trial = asked()
    report_hypergradient(trial, {"x": 3.0, "y": 4.0})
    assert study.trials[0].user_attrs["hg:gradient_norm"] == 5.0


@pytest.mark.parametrize(
    "gradient, message",
    [
        ({}, "gradient is empty: nothing in the update is a Schedule, .* see .*suggest_schedule"),
        ([1.0], "gradient must map parameter names to floats"),
        ({"z": 1.0}, r"'z' is not a parameter of this trial \(x, y, c, n\)"),
        ({"c": 1.0}, "'c' is categorical"),
        ({"x": [1.0, 2.0]}, r"'x' must be a number, got \[1.0, 2.0\]"),
        ({"x": [[1.0], [1.0, 2.0]]}, r"'x' must be a number, got \[\["),
        ({"x": torch.zeros(2, requires_grad=True)}, r"'x' must be one number, got shape \(2,\)"),
        ({"x": torch.zeros(2, dtype=torch.bfloat16)}, r"'x' must be one number, got shape"),
        ({"x": np.zeros((0,))}, r"'x' must be one number, got shape \(0,\)"),
        ({"x": torch.zeros(3)}, r"'x' must be one number, got shape \(3,\)"),
        ({"x": "1.0"}, "'x' must be a number, got '1.0'"),
        ({"x": None}, "'x' must be a number, got None"),
        ({"x": True}, "'x' must be a number, got True"),
        ({"x": 1j}, "'x' must be a number"),
    ],
)
def test_a_report_that_cannot_be_used_is_refused_and_costs_nothing(
    gradient: Any, message: str
) -> None:
    study, trial = asked(GradientSampler(seed=0, strategy="sign_descent"))
    before = study.trials[0].user_attrs
    with pytest.raises(ValueError, match=message):
        report_hypergradient(trial, gradient)
    assert study.trials[0].user_attrs == before
    report_hypergradient(trial, {"x": 1.0})


@pytest.mark.parametrize("sampler", [None, GradientSampler(seed=0)], ids=["random", "gradient"])
def test_an_empty_report_is_one_only_where_none_is_wanted(sampler: Any) -> None:
    study, trial = asked(sampler)
    assert not wants_hypergradient(trial)
    report_hypergradient(trial, {})
    assert "hg:gradient" not in study.trials[0].user_attrs
    report_hypergradient(trial, {"x": 1.0})  # nothing has been reported yet


def test_reporting_twice_is_refused() -> None:
    study, trial = asked()
    report_hypergradient(trial, {"x": 1.0})
    with pytest.raises(ValueError, match="trial 0 has already reported"):
        report_hypergradient(trial, {"x": 2.0})
    assert read_gradient(study.trials[0]) == {"x": 1.0}


def test_reporting_after_the_end_is_refused() -> None:
    study, trial = asked()
    study.tell(trial, 1.0)
    for finished in (trial, study.trials[0]):
        with pytest.raises(UpdateFinishedTrialError, match="trial 0 has finished"):
            report_hypergradient(finished, {"x": 1.0})


def test_reporting_to_a_copy_of_a_running_trial_is_refused() -> None:
    study, _ = asked()
    with pytest.raises(ValueError, match="trial 0 is a FrozenTrial, which stores nothing"):
        report_hypergradient(study.trials[0], {"x": 1.0})


def test_an_objective_runs_with_fixed_values_too() -> None:
    trial = FixedTrial({"x": 0.5})
    x = trial.suggest_float("x", 0, 1)
    report_hypergradient(trial, {"x": x})
    assert trial.user_attrs["hg:gradient"]["values"] == {"x": 0.5}


def test_a_report_of_an_older_version_among_the_user_attributes_is_read() -> None:
    study, trial = asked()
    trial.set_user_attr("hg:gradient", {"trial": 0, "values": {"x": 0.5}})
    assert read_gradient(study.trials[0]) == {"x": 0.5}


def test_only_numbers_become_columns_of_a_dashboard() -> None:
    study, trial = asked()
    report_shape(trial, "x", Shape(2, "linear", True))
    report_hypergradient(trial, {"x": 1 / 3})
    assert study.trials[0].user_attrs == {"hg:gradient_norm": 0.333333}
    assert study.trials[0].system_attrs["hg:gradient"]["values"] == {"x": 1 / 3}


def test_a_copied_report_of_another_trial_does_not_count() -> None:
    study, trial = asked()
    report_hypergradient(trial, {"x": 1.0})
    study.tell(trial, 1.0)
    copied = optuna.create_study()
    copied.add_trials([optuna.create_trial(value=0.0), study.trials[0]])
    assert read_gradient(copied.trials[1]) is None


@pytest.mark.parametrize(
    "stored",
    [1, "x", [], {}, {"trial": 0}, {"trial": 0, "values": [1]}, {"trial": 0, "values": {"x": "y"}}],
)
def test_damaged_attributes_give_an_error_that_names_the_trial(stored: Any) -> None:
    study, trial = asked()
    trial.storage.set_trial_system_attr(trial._trial_id, "hg:gradient", stored)
    with pytest.raises(StoredDataError, match="trial 0: hg:gradient is damaged"):
        read_gradient(study.trials[0])
    with pytest.raises(StoredDataError, match="trial 0: hg:claim is damaged"):
        read_claim(0, {"hg:claim": stored})


def test_seeds_differ_between_trials_and_repeat_with_the_study() -> None:
    def seeds(sampler: optuna.samplers.BaseSampler) -> list[int]:
        study = optuna.create_study(sampler=sampler)
        trials = [study.ask() for _ in range(4)]
        return [trial_seed(trial) for trial in trials]

    first = seeds(GradientSampler(seed=1))
    assert len(set(first)) == 4
    assert first == seeds(GradientSampler(seed=1)) != seeds(GradientSampler(seed=2))
    assert len(set(seeds(optuna.samplers.RandomSampler()))) == 4
    assert trial_seed(FixedTrial({}, number=3)) == trial_seed(FixedTrial({}, number=3))


def test_the_seed_of_a_stored_trial_is_that_of_the_running_one() -> None:
    study = optuna.create_study(sampler=GradientSampler(seed=1))
    trial = study.ask()
    assert trial_seed(trial) == trial_seed(study.trials[0])


def test_refined_values_of_a_diverged_trial_are_marked_and_start_nothing() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        report_refined(trial, {"x": float("nan")})
        return x

    study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=1))
    study.optimize(objective, n_trials=2)
    assert study.trials[0].system_attrs["hg:refined"]["values"] == {"x": "nan"}
    assert study.trials[1].params == study.trials[0].params
    with pytest.raises(ValueError, match="values: 'y' is not a parameter of this trial"):
        report_refined(study.ask(), {"y": 1.0})


def test_schedules_are_recorded_once_and_for_the_trial_itself() -> None:
    study, trial = asked()
    for name, count in (("lr", 64), ("decay", 65), ("lr", 64)):
        report_shape(trial, name, Shape(count, "linear", True))
    shapes = {"lr": Shape(64, "linear", True), "decay": Shape(65, "linear", True)}
    assert read_shapes(study.trials[0]) == shapes
    report_shape(study.trials[0], "lr", Shape(8, "linear", True))  # a copy, which stores nothing
    study.tell(trial, 1.0)
    report_shape(trial, "lr", shapes["lr"])  # nothing new to say, so no error
    copied = optuna.create_study()
    copied.add_trials([optuna.create_trial(value=0.0), study.trials[0]])
    assert read_shapes(study.trials[0]) == shapes
    assert read_shapes(copied.trials[1]) == {}


@pytest.mark.parametrize(
    "stored", [1, {"trial": 0}, {"trial": 0, "schedules": {"lr": {"size": 0}}}]
)
def test_damaged_shapes_name_the_trial(stored: Any) -> None:
    study, trial = asked()
    trial.storage.set_trial_system_attr(trial._trial_id, "hg:schedules", stored)
    with pytest.raises(StoredDataError, match="trial 0: hg:schedules is damaged"):
        read_shapes(study.trials[0])


def test_claims_that_were_stored_before_windows_were_cut_are_read() -> None:
    study, _ = asked(GradientSampler(seed=0, strategy="sign_descent"))
    stored = dict(study.trials[0].system_attrs["hg:claim"])
    assert stored.pop("windows") == {}
    claim = read_claim(0, {"hg:claim": stored})
    assert claim == read_claim(0, study.trials[0].system_attrs)


def test_of_a_rule_only_what_is_not_the_default_is_stored() -> None:
    rule = Rule(safeguard=None, start={"x": 0.5}, step_size={"x": np.float64(0.25)}, n_replicates=2)
    study = optuna.create_study()
    for claim in (Claim(0, 0, 0, 0), Claim(1, 0, 0, 0, rule=rule)):
        write_claim(study._storage, study.ask()._trial_id, claim)
    stored = [trial.system_attrs["hg:claim"]["rule"] for trial in study.trials]
    assert stored == [{}, {"safeguard": None, "step_size": {"x": 0.25}, "n_replicates": 2}]
    claims = [read_claim(trial.number, trial.system_attrs) for trial in study.trials]
    assert [claim.rule for claim in claims if claim] == [Rule(), replace(rule, start={})]
