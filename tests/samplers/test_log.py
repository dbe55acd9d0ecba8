"""The line that each trial begins with: what changes, and why."""

import math
import re
from typing import Any

import optuna
import pytest

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    report_hypergradient,
    suggest_schedule,
)
from optuna_hypergrad.samplers.describe import describe_change
from samplers.studies import ask, constrain, create, finish, quadratic

pytestmark = pytest.mark.usefixtures("sign_descent")


def test_a_search_tells_what_moves_and_what_became_of_the_step_before(lines: list[str]) -> None:
    study = create(GradientSampler(seed=0, start={"y": 0.5}))
    first = study.ask()
    first.suggest_float("x", -1, 1)
    first.suggest_float("y", 1e-2, 1, log=True)
    report_hypergradient(first, {"x": -1.0, "y": 2.0})
    study.tell(first, 3.0)
    study.ask()
    assert lines == [
        "Trial 0: outer step 0, the start.",
        "Trial 1: outer step 1, after trial 0 (3) was accepted: "
        "x 0 → 0.1 (sign −, γ 0.1), y 0.5 → 0.397 (sign +, γ ×1.26).",
    ]


def test_replicates_chains_and_guesses_are_named(lines: list[str]) -> None:
    study = create(GradientSampler(seed=0, n_chains=2))
    trials = [ask(study, ["x"]) for _ in range(4)]
    finish(study, trials[0], 3.0, gradient=-1.0)
    finish(study, ask(study, ["x"]), 9.0, gradient=1.0)
    study.enqueue_trial({"x": 0.0})
    ask(study)
    assert lines[1:4] == [
        "Trial 1: outer step 0 of chain 1, the start.",
        "Trial 2: outer step 0 of chain 0, once more at the same point.",
        "Trial 3: outer step 0 of chain 1, once more at the same point.",
    ]
    assert lines[5].startswith("Trial 5: outer step 2 of chain 0, at an enqueued point.")


def test_a_rejected_step_leads_back(lines: list[str]) -> None:
    study = create()
    for loss in (3.0, 2.0, 9.0, 2.2):
        finish(study, ask(study, ["x"]), loss, gradient=-1.0)
    ask(study, ["x"])
    assert lines[3:] == [
        "Trial 3: outer step 3, after trial 2 (9) was rejected: "
        "back to the best point, x 0.2 → 0.1.",
        "Trial 4: outer step 4, after trial 3 (2.2) was measured again: "
        "x 0.1 → 0.15 (sign −, γ 0.05).",
    ]


def test_of_many_moves_some_are_listed(lines: list[str]) -> None:
    study = create()
    names = [f"lr_{i}" for i in range(10)]
    finish(study, ask(study, names))
    ask(study, names)
    assert lines[1].count("→") == 8 and lines[1].endswith(", and 2 more.")


def test_a_step_that_was_pruned_leads_back(lines: list[str]) -> None:
    study = create()
    finish(study, ask(study, ["x"]), 3.0)
    finish(study, ask(study, ["x"]), None, optuna.trial.TrialState.PRUNED)
    ask(study, ["x"])
    assert lines[2] == (
        "Trial 2: outer step 2, after trial 1 was pruned: back to the best point, x -0.1 → 0."
    )


def test_a_start_that_was_pruned_is_followed_by_another(lines: list[str]) -> None:
    study = create()
    finish(study, ask(study, ["x"]), None, optuna.trial.TrialState.PRUNED)
    ask(study, ["x"])
    assert lines[1] == "Trial 1: outer step 1, after trial 0 was pruned: another start."


def test_a_step_that_diverged_or_failed_is_named_so(lines: list[str]) -> None:
    study = create()
    finish(study, ask(study, ["x"]), 3.0)
    finish(study, ask(study, ["x"]), 2.0, gradient=math.nan)
    finish(study, ask(study, ["x"]), 3.0)
    for _ in range(3):
        study.tell(ask(study, ["x"]), state=optuna.trial.TrialState.FAIL)
    study.ask()
    assert (
        "after trial 1 (2) diverged: back" in lines[2] or "after trial 1 diverged: back" in lines[2]
    )
    assert "after trial 3+4+5 failed: " in lines[6]


def test_after_a_rejection_the_move_starts_at_the_best_point(lines: list[str]) -> None:
    study = create()
    for loss in (3.0, 2.0, 9.0, 2.0, 9.0):  # measured again, the best point has no noise
        finish(study, ask(study, ["x"]), loss, gradient=-1.0)
    last = ask(study, ["x"])
    assert lines[5] == (
        "Trial 5: outer step 5, after trial 4 (9) was rejected: "
        "on from the best point, x 0.1 → 0.125 (sign −, γ 0.025)."
    )
    assert last.params["x"] == pytest.approx(0.125)


def test_numbers_are_as_people_write_them(lines: list[str]) -> None:
    study = create(GradientSampler(seed=0, start={"x": 0.95, "z": 0.1}, step_size={"z": 1e-6}))
    trial = study.ask()
    trial.suggest_float("x", -1, 1)
    trial.suggest_float("y", 0, 4000)
    trial.suggest_float("z", 0.01, 1, log=True)
    report_hypergradient(trial, {"x": -1.0, "y": 1.0, "z": 1.0})
    study.tell(trial, 1.0)
    study.ask()
    assert "x 0.95 → 1 (sign −, to its bound)" in lines[1]
    assert "z 0.1 → 0.0999999 (sign +, γ ×1.000001)" in lines[1]


def test_rounding_is_no_move(lines: list[str]) -> None:
    study = create(GradientSampler(seed=0, start={"x": 1 - 2**-53, "n": 3.0}))
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    report_hypergradient(trial, {"x": -1.0})
    study.tell(trial, 1.0)
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == 1.0 != x  # stored as it is
    assert lines[-1].endswith(": no learned parameter moves.")


def test_no_step_size_is_too_long(lines: list[str]) -> None:
    study = create(GradientSampler(seed=0, step_size={"x": 800.0}))
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("x", 1e-3, 1.0, log=True)
        report_hypergradient(trial, {"x": 1.0})
        study.tell(trial, 1.0)
    assert "γ ×inf" in lines[1]


def test_values_have_as_many_digits_as_the_move_needs(lines: list[str]) -> None:
    study = create()
    trial = study.ask()
    trial.suggest_float("x", 1000, 1001)
    trial.suggest_int("n", 0, 40)
    report_hypergradient(trial, {"x": 1.0, "n": 1.0})
    study.tell(trial, 1.0)
    study.ask()
    n = trial.params["n"]
    assert f"x 1000.5 → 1000.45 (sign +, γ 0.05), n {n} → {n - 2} (sign +, γ 2)." in lines[1]


def test_the_end_of_a_search_comes_with_advice(lines: list[str]) -> None:
    study = create()
    study.optimize(quadratic, n_trials=200)
    assert len(study.trials) < 200
    assert lines[-1].startswith("The study ends, since the search has converged: ")
    assert "γ is below 0.001 of the range for x, y, z." in lines[-1]
    assert f"Best: trial {study.best_trial.number} (" in lines[-1]
    assert "GradientSampler(tolerance=0.0001) takes smaller steps" in lines[-1]
    assert sum(line.startswith("The study ends") for line in lines) == 1


@pytest.mark.parametrize("way", [{"tolerance": 1e-4}, {"n_chains": 2}])
def test_the_advice_works(way: dict[str, Any]) -> None:
    study = create()
    study.optimize(quadratic, n_trials=200)
    n = len(study.trials)
    study.sampler = GradientSampler(seed=0, **way)
    study.optimize(quadratic, n_trials=3)
    assert len(study.trials) == n + 3


def test_a_search_without_any_slope_ends_and_says_so(lines: list[str]) -> None:
    def flat(trial: optuna.Trial) -> float:
        report_hypergradient(trial, {"x": trial.suggest_float("x", -1, 1) * 0.0})
        return 1.0

    study = create()
    study.optimize(flat, n_trials=120)
    assert len(study.trials) == 3
    assert "the hypergradient stays 0 for x" in lines[-1]
    assert "check that the loss depends on what stays 0" in lines[-1]


def test_one_hypergradient_that_stays_zero_does_not_keep_a_search_going(lines: list[str]) -> None:
    def half_flat(trial: optuna.Trial) -> float:
        x, _ = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
        report_hypergradient(trial, {"x": 2 * (x - 0.37), "y": 0.0})
        return (x - 0.37) ** 2

    study = create()
    study.optimize(half_flat, n_trials=200)
    assert len(study.trials) < 40
    assert abs(study.best_params["x"] - 0.37) < 0.01
    assert "the hypergradient stays 0 for y; γ is below 0.001 of the range for x" in lines[-1]


def test_a_search_that_ends_at_a_bound_says_so(lines: list[str]) -> None:
    def downhill(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        report_hypergradient(trial, {"x": -1.0})
        return -x

    create().optimize(downhill, n_trials=100)
    assert "x at a bound of the range. Best: trial 10 (-1)." in lines[-1]


def test_what_is_left_out_of_a_report_is_logged_once_by_name(lines: list[str]) -> None:
    def objective(trial: optuna.Trial) -> float:
        suggest_schedule(trial, "lr", -1, 1, windows=3)
        suggest_schedule(trial, "momentum", 0, 1)
        x = trial.suggest_float("x", -1, 1)
        trial.suggest_int("n", 0, 5)
        report_hypergradient(trial, {"x": x})
        return x**2

    create().optimize(objective, n_trials=6)
    logged = [line for line in lines if "reported no hypergradient" in line]
    assert len(logged) == 1
    assert "Trial 0 reported no hypergradient of lr, momentum, which are left to TPE" in logged[0]
    create(PopulationSampler(seed=0, population_size=2)).optimize(objective, n_trials=6)
    logged = [line for line in lines if "reported no hypergradient" in line]
    assert (
        len(logged) == 2
        and "hypergradient of lr, momentum, which" in logged[1]
        and "which are mutated without one" in logged[1]
    )


def test_a_hypergradient_that_is_left_out_later_is_logged(lines: list[str]) -> None:
    study = create()
    finish(study, ask(study, ["x", "y"]))
    trial = ask(study, ["x", "y"])
    report_hypergradient(trial, {"x": 1.0})
    study.tell(trial, 0.5)
    assert "Trial 1 reported no hypergradient of y, which is not moved by it;" in lines[-1]


def test_what_a_sampler_around_fixes_does_not_move(lines: list[str]) -> None:
    for sampler in (GradientSampler(seed=0), PopulationSampler(seed=0, population_size=1)):
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            study = create(optuna.samplers.PartialFixedSampler({"x": -0.3}, sampler))
        finish(study, ask(study, ["x", "y"]))
        after = ask(study, ["x", "y"])
        assert after.params["x"] == -0.3
        assert "x " not in lines[-1].split(":", 2)[2] and " y " in lines[-1]


def test_the_end_names_the_constraint(lines: list[str]) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        report_hypergradient(trial, {"x": -1.0})
        constrain(trial, x - 0.33, "budget")
        return -x

    study = create()
    study.optimize(objective, n_trials=100)
    assert "γ was halved where trials violated 'budget'. Best" in lines[-1]
    (best,) = re.findall(r"Best: trial (\d+) ", lines[-1])
    assert 0.32 < study.trials[int(best)].params["x"] <= 0.33


def test_reports_that_stop_end_a_search(lines: list[str]) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        if trial.number < 2:
            report_hypergradient(trial, {"x": 2 * (x - 0.5)})
        return (x - 0.5) ** 2

    study = create()
    study.optimize(objective, n_trials=40)
    assert len(study.trials) == 12  # and ten that reported nothing
    assert "10 trials of one point reported no hypergradient." in lines[-1]
    assert "call report_hypergradient in every trial" in lines[-1]
    study.optimize(quadratic_of_x, n_trials=5)  # corrected, the objective continues
    assert len(study.trials) == 17
    assert study.trials[-1].params["x"] == pytest.approx(0.5, abs=0.1)


def quadratic_of_x(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    report_hypergradient(trial, {"x": 2 * (x - 0.5)})
    return (x - 0.5) ** 2


def test_a_schedule_that_is_left_out_later_is_not_moved(lines: list[str]) -> None:
    study = create()
    for left_out in (False, True):
        trial = study.ask()
        lr = suggest_schedule(trial, "lr", -1, 1, windows=3)
        x = trial.suggest_float("x", -1, 1)
        report_hypergradient(trial, {"x": x} if left_out else dict.fromkeys(lr.names, 1.0))
        study.tell(trial, 1.0)
    assert "Trial 1 reported no hypergradient of lr, which is not moved by it;" in lines[-1]


def test_where_nothing_or_all_is_reported_nothing_is_logged(lines: list[str]) -> None:
    study = create(PopulationSampler(seed=0, population_size=2))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    create().optimize(quadratic, n_trials=3)
    assert not [line for line in lines if "reported no hypergradient" in line]


def test_verbosity_rules(lines: list[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = create()
    study.ask()
    assert not lines


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (5e5, 1e6, "500000 → 1000000"),
        (9.5e5, 1.5e6, "950000 → 1500000"),
        (2e6, 3e6, "2000000 → 3000000"),
    ],
)
def test_large_numbers_of_one_line_are_written_alike(
    before: float, after: float, expected: str
) -> None:
    assert describe_change(before, after) == expected
