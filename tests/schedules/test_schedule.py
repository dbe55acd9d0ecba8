import json

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FixedTrial

from optuna_hypergrad import Schedule, suggest_schedule
from optuna_hypergrad.reports.objective import Shape, read_shapes

FORMS = ("constant", "linear", "cosine")


def ask() -> optuna.Trial:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(sampler=sampler).ask()


def test_windows_cut_the_horizon_into_contiguous_equal_parts() -> None:
    schedule = Schedule("lr", [1.0, 2.0, 3.0])
    assert [schedule.window(step, 10) for step in range(10)] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert schedule.over(10).tolist() == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("windows, steps", [(1, 5), (3, 10), (7, 200), (10, 10), (10, 7)])
def test_positions_count_the_steps_of_each_window(windows: int, steps: int) -> None:
    schedule = Schedule("lr", np.arange(windows))
    indices = [schedule.window(step, steps) for step in range(steps)]
    for step, index in enumerate(indices):
        assert schedule.position(step, steps) == (step - indices.index(index), indices.count(index))


@pytest.mark.parametrize("form", FORMS)
def test_a_longer_horizon_stretches_the_same_schedule(form: str) -> None:
    schedule = Schedule("lr", [0.3, 0.1, 0.4], form)
    np.testing.assert_allclose(schedule.over(50)[::5], schedule.over(10))


def test_cosine_with_one_window_is_cosine_annealing_between_its_ends() -> None:
    schedule = Schedule("lr", [0.5, 0.1], "cosine")
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    for step in range(20):
        assert schedule.at(step, 20) == pytest.approx(annealing.get_last_lr()[0])
        optimizer.step()
        annealing.step()


def test_linear_passes_through_its_knots() -> None:
    schedule = Schedule("lr", [0.0, 1.0, 0.5], "linear")
    assert schedule.over(4).tolist() == [0.0, 0.5, 1.0, 0.75]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_matches_central_differences(form: str, log: bool) -> None:
    values, epsilon = np.array([0.4, 0.2, 0.7]), 1e-6
    for step in range(11):
        gradient = Schedule("lr", values, form, log).gradient(step, 11)
        for knot in range(3):
            shift = epsilon * np.eye(3)[knot]
            up, down = (Schedule("lr", values + s, form, log).at(step, 11) for s in (shift, -shift))
            assert gradient[knot] == pytest.approx((up - down) / (2 * epsilon), abs=1e-8)


@pytest.mark.parametrize("form, count", [("constant", 3), ("linear", 4), ("cosine", 4)])
def test_suggests_one_parameter_for_each_value(form: str, count: int) -> None:
    trial = ask()
    schedule = suggest_schedule(trial, "lr", 1e-3, 1.0, windows=3, log=True, form=form)
    assert schedule.params == trial.params
    assert list(trial.params) == [f"lr_{i}" for i in range(count)]
    assert all(d.log and d.low == 1e-3 for d in trial.distributions.values())


@pytest.mark.parametrize("form, count", [("constant", 64), ("linear", 65)])
def test_automatic_windows_are_a_fine_schedule(form: str, count: int) -> None:
    trial = ask()
    schedule = suggest_schedule(trial, "lr", 0, 1, windows="auto", form=form)
    assert schedule.params == trial.params and len(trial.params) == count
    assert read_shapes(trial.study.trials[0]) == {"lr": Shape(count, form, is_shared=True)}


def test_a_single_window_keeps_the_plain_name() -> None:
    trial = ask()
    suggest_schedule(trial, "momentum", 0.0, 0.99)
    assert list(trial.params) == ["momentum"]


def test_the_best_parameters_restore_the_schedule() -> None:
    trial = ask()
    schedule = suggest_schedule(trial, "lr", -1, 1, windows=4)
    assert suggest_schedule(FixedTrial(trial.params), "lr", -1, 1, windows=4) == schedule


@pytest.mark.parametrize("form", FORMS)
def test_json_and_csv_restore_it_exactly(form: str) -> None:
    schedule = Schedule("lr", [1 / 3, 1e-17, 2.5], form, log=True)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert Schedule.from_csv(schedule.to_csv()) == schedule


def test_lambda_lr_sets_every_group_to_the_schedule() -> None:
    schedule = Schedule("lr", [0.3, -0.1])
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.7, 0.0)]
    optimizer = torch.optim.SGD(groups)
    scheduler = schedule.to_lambda_lr(optimizer, steps=6)
    seen = []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert seen == [[lr, lr] for lr in schedule.over(6)]
    assert optimizer.param_groups[0]["lr"] == -0.1  # holds the last value afterwards


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Schedule("lr", []), "values: .* at least 1, got 0"),
        (lambda: Schedule("lr", 0.1), "values must be a sequence of numbers, got 0.1"),
        (lambda: Schedule("lr", ["a"]), "values must be a sequence of numbers"),
        (lambda: Schedule("lr", [1.0], "linear"), "values: .* at least 2, got 1"),
        (lambda: Schedule("lr", [1.0], "wave"), "form must be one of .*'wave'"),
        (lambda: Schedule("lr", [1.0, float("nan")]), "lr_1 must be finite, got nan"),
        (lambda: Schedule("lr", [1.0, 0.0], log=True), "lr_1 must be positive .* got 0.0"),
        (lambda: Schedule("lr", [1.0]).at(5, 5), "step must lie in 0 … 4"),
        (lambda: Schedule("lr", [1.0]).at(0, 0), "steps must be a positive integer, got 0"),
        (lambda: suggest_schedule(ask(), "lr", 0, 1, windows=0), "windows .* got 0"),
        (lambda: suggest_schedule(ask(), "lr", 0, 1, windows=2.0), "windows .* got 2.0"),
        (
            lambda: suggest_schedule(ask(), "lr", 0, 1, windows="all"),
            "integer or 'auto', got 'all'",
        ),
        (lambda: suggest_schedule(ask(), "lr", 0, 1, form="x"), "form must be"),
        (lambda: Schedule.from_json(json.dumps({"name": "lr"})), "text: not a schedule"),
        (lambda: Schedule.from_json("[1]"), "text: not a schedule"),
        (lambda: Schedule.from_csv("a,b\n1,2\n"), "text: expected CSV"),
        (
            lambda: Schedule.from_csv(
                "name,form,log,parameter,value\nlr,constant,0,lr_1,1\nlr,constant,0,lr_0,2\n"
            ),
            r"text: expected rows for \('lr_0', 'lr_1'\) in order",
        ),
    ],
)
def test_bad_input_names_the_argument(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_all_steps_at_once_are_the_single_steps_to_the_last_bit(form: str, log: bool) -> None:
    schedule = Schedule("lr", [0.3, 1 / 3, 0.7, 0.1], form, log)
    knots, derivatives = schedule.derivatives(23)
    for step in range(23):
        assert schedule.over(23)[step] == schedule.at(step, 23)
        gradient = np.zeros(len(schedule.values))
        np.add.at(gradient, knots[step], derivatives[step])
        assert (gradient == schedule.gradient(step, 23)).all()
