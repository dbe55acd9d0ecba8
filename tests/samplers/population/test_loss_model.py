"""Clones near the minimum of what the latest generations have measured."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optuna_hypergrad import report_hypergradient, students
from optuna_hypergrad.reports import report_refined
from optuna_hypergrad.samplers.population.hyperparameters import Numeric
from optuna_hypergrad.samplers.population.loss_model import lowest_point
from samplers.populations import create, population_of, run, silent


def lowest(study: optuna.Study, generation: int, size: int = 4) -> np.ndarray | None:
    numeric = Numeric.of(study.trials[0].distributions)
    return lowest_point(population_of(study), generation, size, numeric)


def rippled(trial: optuna.Trial) -> float:
    x, y = (trial.suggest_float(name, -1, 1) for name in "xy")
    slopes = {"x": 2 * (x - 0.4) + 3 * math.sin(30 * x), "y": 2 * (y + 0.2) + 3 * math.sin(30 * y)}
    report_hypergradient(trial, slopes)
    return (x - 0.4) ** 2 + (y + 0.2) ** 2 - 0.1 * (math.cos(30 * x) + math.cos(30 * y))


def test_clones_begin_near_the_minimum() -> None:
    study = create(population_size=8, resample_probability=0.0, burn_in=0)
    study.optimize(rippled, n_trials=160)
    moved = [
        (name, record.after)
        for segment in students(study)
        for name, record in segment.mutations.items()
        if segment.generation > 6 and record.origin == "surrogate"
    ]
    assert len(moved) > 20
    for name, target in (("x", 0.7), ("y", 0.4)):
        assert abs(np.median([after for n, after in moved if n == name]) - target) < 0.2


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_losses_are_ranked_within_a_generation(direction: str) -> None:
    """Training makes later generations better, whatever their hyperparameters are."""
    study = create(direction=direction, mutation=None, truncation=0.0)
    sign = 1 if direction == "minimize" else -1
    for n in range(12):
        x = [-0.8, -0.1, 0.1, 0.9][n % 4]
        study.enqueue_trial({"x": x})
        run(study, sign * (abs(x + 0.1) - n // 4))
    found = lowest(study, 3)
    assert found is not None and found == pytest.approx([0.45], abs=0.1)


def test_diverged_segments_are_the_worst_and_equal_losses_say_nothing() -> None:
    study = create()
    for x, value in ((-1.0, math.inf), (-0.5, 2.0), (0.5, 1.0), (1.0, math.inf)):
        study.enqueue_trial({"x": x})
        run(study, value)
    found = lowest(study, 1)
    assert found is not None and 0.4 < found[0] < 0.8
    equal = create()
    for _ in range(4):
        run(equal, 1.0)
    assert lowest(equal, 1) is None
    assert lowest(equal, 0) is None


def test_failed_segments_and_those_with_other_parameters_do_not_count() -> None:
    study = create(population_size=4)
    run(study, None, TrialState.FAIL)
    trial = study.ask()
    trial.suggest_float("other", 0, 1)
    study.tell(trial, 0.0)
    trial = study.ask()
    trial.suggest_float("x", -1, 1)
    study.tell(trial, 3.0)
    trial = study.ask()
    x = trial.suggest_float("x", -1, 1)
    report_refined(trial, {"x": x / 2})
    study.tell(trial, 1.0)
    found = lowest(study, 1)
    ends = sorted([(study.trials[2].params["x"] + 1) / 2, (x / 2 + 1) / 2])
    assert found is not None and ends[0] <= found[0] <= ends[1]


def test_a_population_without_hypergradients_follows_it_as_well() -> None:
    study = create(population_size=6, refine=False)
    study.optimize(silent, n_trials=120)
    assert abs(study.best_params["x"] - 0.3) < 0.05
