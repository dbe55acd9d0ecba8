"""Tables of hyperparameters over the steps of a run."""

import math

import numpy as np
import pytest
import torch

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff.hparams import RunHparams

STEPS = 7
SCHEDULES = {
    "constant": Schedule("lr", [0.1, 0.2, 0.3]),
    "linear": Schedule("lr", [0.1, 0.2, 0.05], form="linear"),
    "cosine": Schedule("lr", [0.1, 0.3], form="cosine"),
    "log": Schedule("lr", [0.1, 1e-3, 0.2], form="linear", log=True),
    "more windows than steps": Schedule("lr", [0.1] * 10),
    "one value": Schedule("lr", [0.1]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_hold_what_the_schedule_gives_at_each_step(name: str) -> None:
    schedule = SCHEDULES[name]
    hparams = RunHparams(
        {"lr": schedule, "momentum": 0.9}, {}, None, STEPS, torch.zeros(()).double()
    )
    fixed = RunHparams({"lr": schedule}, {}, (), STEPS)
    for step in range(STEPS):
        values = hparams.at(step).update
        assert values["lr"].item() == schedule.at(step, STEPS) == fixed.at(step).update["lr"]
        assert values["momentum"] == 0.9
        gradient = schedule.gradient(step, STEPS).tolist()
        pairs = zip(schedule.names, gradient, strict=True)
        assert hparams.derivatives(("update", "lr"), step) == {k: g for k, g in pairs if g}


@pytest.mark.parametrize("name", SCHEDULES)
def test_derivatives_by_parameter_are_sums_over_the_steps(name: str) -> None:
    schedule = SCHEDULES[name]
    per_step = np.random.default_rng(0).normal(size=STEPS)
    found = RunHparams({"lr": schedule}, {}, None, STEPS).by_parameter({("update", "lr"): per_step})
    expected = sum(per_step[i] * schedule.gradient(i, STEPS) for i in range(STEPS))
    assert list(found) == list(schedule.names)
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-12, atol=1e-15)


def test_a_step_that_overflows_counts_in_its_own_window_only() -> None:
    per_step = np.array([1.0, 1.0, math.inf, math.nan, 1.0, 1.0])
    hparams = RunHparams({"lr": Schedule("lr", [0.1] * 3)}, {}, None, 6)
    found = hparams.by_parameter({("update", "lr"): per_step})
    assert (found["lr_0"], found["lr_2"]) == (2.0, 2.0) and math.isnan(found["lr_1"])


def test_a_value_may_be_changed_in_place() -> None:
    hparams = RunHparams({"lr": Schedule("lr", [0.5])}, {}, None, 2)
    hparams.at(0).update["lr"].mul_(2)
    assert hparams.at(0).update["lr"].item() == hparams.at(1).update["lr"].item() == 0.5
