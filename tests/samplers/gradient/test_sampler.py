"""GradientSampler in one process: what it proposes, from what, and what it refuses."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule, trial_seed
from optuna_hypergrad.algorithms import sign_descent
from optuna_hypergrad.algorithms.ranges import Ranges
from samplers.studies import OPTIMUM, ask, claims, create, finish, points, quadratic

pytestmark = pytest.mark.usefixtures("sign_descent")


def test_finds_the_optimum_and_stops_when_it_has() -> None:
    study = create()
    study.optimize(quadratic, n_trials=200)
    assert len(study.trials) < 100
    for name, value in OPTIMUM.items():
        assert study.best_params[name] == pytest.approx(value, rel=0.05)
    assert study.sampler.chains(study)[0].converged


@pytest.mark.parametrize("safeguard", [None, 0.1])
def test_each_trial_is_one_step_of_the_rule(safeguard: float | None) -> None:
    study = create(GradientSampler(safeguard=safeguard))
    study.optimize(quadratic, n_trials=25)
    ranges = Ranges(
        np.array([-1.0, -1.0, 1e-4]), np.array([1.0, 1.0, 1.0]), np.array([False, False, True])
    )
    state = sign_descent.init(ranges, ranges.to_search(ranges.start()))
    optimum = np.array(list(OPTIMUM.values()))
    for trial in study.trials:
        values = ranges.to_natural(state.point)
        np.testing.assert_allclose(list(trial.params.values()), values, rtol=1e-12, atol=1e-15)
        error = values - optimum
        outcome = sign_descent.Outcome(state.point, float(error @ error), 2 * error)
        state = sign_descent.advance(state, outcome, ranges, safeguard)


def test_a_seed_repeats_a_study_and_no_seed_is_needed_for_it() -> None:
    runs = [create(GradientSampler(seed=seed)) for seed in (3, 3, None)]
    for study in runs:
        study.optimize(quadratic, n_trials=12)
    assert points(runs[0]) == points(runs[1]) == points(runs[2])


def test_another_sampler_goes_on_where_the_first_stopped() -> None:
    whole, halved = create(), create()
    whole.optimize(quadratic, n_trials=14)
    for _ in range(7):
        halved.sampler = GradientSampler(seed=0)
        halved.optimize(quadratic, n_trials=2)
    assert points(whole) == points(halved)


def test_maximised_values_descend_the_same_gradient() -> None:
    up, down = create(direction="maximize"), create()
    up.optimize(lambda trial: -quadratic(trial), n_trials=20)
    down.optimize(quadratic, n_trials=20)
    assert points(up) == points(down)


def test_a_trial_much_worse_than_the_best_is_stepped_back_from() -> None:
    study = create(GradientSampler(seed=0, safeguard=0.1))
    for value in (2.0, 1.0, 1.5):
        finish(study, ask(study), value)
    assert [p["x"] for p in points(study)] == pytest.approx([0.0, -0.1, -0.2])
    finish(study, ask(study), 1.0)
    assert points(study)[3] == points(study)[1]  # the best point, measured again
    assert ask(study).params["x"] == pytest.approx(-0.15)  # from there, half a step


@pytest.mark.parametrize("gradient, state", [(float("nan"), None), (1.0, TrialState.PRUNED)])
def test_pruned_and_nan_trials_count_as_diverged(gradient: float, state: TrialState) -> None:
    study = create()
    finish(study, ask(study), 2.0)
    finish(study, ask(study), None if state else 1.0, state, gradient)
    assert_goes_back_to_the_start(study)


def test_a_nan_loss_with_a_nan_report_counts_as_diverged() -> None:
    study = create()
    finish(study, ask(study), 2.0)
    with pytest.warns(UserWarning, match="nan is not acceptable"):
        finish(study, ask(study), float("nan"), gradient=float("nan"))
    assert study.trials[1].state == TrialState.FAIL
    assert_goes_back_to_the_start(study)


def assert_goes_back_to_the_start(study: optuna.Study) -> None:
    """Measures it again and leaves it by half a step; without noise, at once the next time."""
    finish(study, ask(study), study.trials[0].value)
    assert points(study)[-1] == points(study)[0]
    assert ask(study).params["x"] == pytest.approx(-0.05)


def test_the_plain_rule_stays_where_a_trial_diverged() -> None:
    study = create(GradientSampler(safeguard=None))
    finish(study, ask(study), 2.0)
    finish(study, ask(study), 1.0, gradient=float("nan"))
    assert ask(study).params["x"] == pytest.approx(-0.1)


def test_failed_trials_are_repeated_as_the_same_step() -> None:
    study = create()
    finish(study, ask(study))
    study.tell(ask(study), state=TrialState.FAIL)
    finish(study, ask(study))
    assert claims(study) == [(0, 0), (0, 1), (0, 1)]
    assert points(study)[1] == points(study)[2]
    assert ask(study).params["x"] == pytest.approx(-0.2)


def test_a_step_that_keeps_failing_counts_as_diverged() -> None:
    study = create()
    finish(study, ask(study))
    for _ in range(3):
        study.tell(ask(study), state=TrialState.FAIL)
    assert_goes_back_to_the_start(study)


def test_a_start_that_diverges_is_drawn_anew() -> None:
    studies = [create(GradientSampler(seed=seed)) for seed in (0, 0, 1)]
    for study in studies:
        finish(study, ask(study), gradient=float("nan"))
        finish(study, ask(study))
    first, again, other = (points(study)[1] for study in studies)
    assert first == again != other
    assert first["x"] != 0.0 and first["x"] != first["y"]
    assert ask(studies[0]).params["x"] == pytest.approx(first["x"] - 0.1)


def test_start_and_step_size_by_parameter_or_schedule() -> None:
    sampler = GradientSampler(
        start={"x": 0.5, "y_1": -0.25, "y": 0.2}, step_size={"y": 0.01, "x": 0.3}
    )
    study = create(sampler)
    finish(study, ask(study, ["x", "y_0", "y_1", "z_y"]))
    assert points(study)[0] == {"x": 0.5, "y_0": 0.2, "y_1": -0.25, "z_y": 0.0}
    expected = {"x": 0.2, "y_0": 0.19, "y_1": -0.26, "z_y": -0.1}
    assert ask(study, ["x", "y_0", "y_1", "z_y"]).params == pytest.approx(expected)


def test_starts_from_the_best_trial_of_any_sampler() -> None:
    study = create(optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: quadratic(t) + t.suggest_categorical("c", [0, 1]), n_trials=20)
    best = study.best_trial
    study.sampler = GradientSampler(start="best", n_chains=2)
    trials = [study.ask() for _ in range(2)]
    for trial in trials:
        quadratic(trial)
        trial.suggest_categorical("c", [0, 1])
    second = sorted(study.trials[:20], key=lambda t: t.value)[1]
    assert [t.params for t in trials] == [best.params, second.params]


def test_chains_start_from_different_trials_also_one_after_the_other() -> None:
    study = create(optuna.samplers.RandomSampler(seed=0))
    study.optimize(quadratic, n_trials=20)
    first, second = sorted(study.trials, key=lambda t: t.value)[:2]
    study.sampler = GradientSampler(start="best", n_chains=2)
    study.optimize(quadratic, n_trials=2)
    assert points(study)[20:] == [first.params, second.params]


def test_a_given_start_is_that_of_the_first_chain() -> None:
    study = create(GradientSampler(seed=0, start={"x": 0.5}, n_chains=3))
    starts = [ask(study).params["x"] for _ in range(3)]
    assert starts[0] == 0.5 and len(set(starts)) == 3


def test_starts_from_the_range_where_there_is_no_best_trial_yet() -> None:
    study = create(GradientSampler(start="best"))
    assert ask(study).params == {"x": 0.0, "y": 0.0}


def test_other_samplers_trials_and_enqueued_ones_without_reports_change_nothing() -> None:
    plain, mixed = create(), create()
    plain.optimize(quadratic, n_trials=8)
    for _ in range(4):
        mixed.sampler = GradientSampler(seed=0)
        mixed.optimize(quadratic, n_trials=2)
        mixed.sampler = optuna.samplers.RandomSampler(seed=0)
        mixed.optimize(lambda t: t.suggest_float("x", -1, 1), n_trials=3)
    assert points(plain) == [t.params for t in mixed.trials if "hg:step" in t.user_attrs]


def test_enqueued_points_are_steps_if_they_report() -> None:
    study = create()
    finish(study, ask(study), 2.0)
    study.enqueue_trial({"x": 0.7})
    finish(study, ask(study), 1.0)
    assert points(study)[1] == {"x": 0.7, "y": pytest.approx(-0.1)}
    assert ask(study).params == pytest.approx({"x": 0.6, "y": -0.2})


def test_enqueued_points_without_reports_are_no_steps() -> None:
    study = create()
    finish(study, ask(study), 2.0)
    for _ in range(4):
        study.enqueue_trial({"x": 0.7})
        study.tell(ask(study), 1.0)
    assert ask(study).params == pytest.approx({"x": -0.1, "y": -0.1})


def test_enqueued_guesses_that_turn_out_bad_cost_nothing() -> None:
    study = create()
    finish(study, ask(study), 2.0)
    finish(study, ask(study), 1.0)
    for state, value in ((None, 5.0), (None, 9.0), (TrialState.PRUNED, None)):
        study.enqueue_trial({"x": 0.7, "y": 0.7})
        trial = ask(study)
        if state is None:
            finish(study, trial, value)
        else:
            study.tell(trial, state=state)
    assert ask(study).params == pytest.approx({"x": -0.2, "y": -0.2})


def test_partially_fixed_parameters_stay_fixed() -> None:
    study = create()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.PartialFixedSampler({"y": 0.5}, GradientSampler(seed=0))
    study.optimize(quadratic, n_trials=30)
    assert all(point["y"] == 0.5 for point in points(study))
    assert study.best_params["x"] == pytest.approx(OPTIMUM["x"], abs=0.01)


def test_parameters_without_hypergradients_come_from_the_independent_sampler() -> None:
    def objective(trial: optuna.Trial) -> float:
        layers = trial.suggest_int("layers", 1, 8)
        unreported = trial.suggest_float("unreported", 0.0, 1.0)
        kind = trial.suggest_categorical("kind", ["a", "b"])
        return quadratic(trial) + 0.1 * layers + unreported + (kind == "a")

    study = create(GradientSampler(seed=0, safeguard=None, stop_when_converged=False))
    study.optimize(objective, n_trials=40)
    assert study.trials[0].params["unreported"] == 0.0  # may yet get a hypergradient
    later = [trial.params for trial in study.trials[1:]]
    assert len({p["layers"] for p in later}) > 2
    assert len({p["unreported"] for p in later}) > 30
    assert {p["kind"] for p in later} == {"a", "b"}
    plain = create(GradientSampler(seed=0, safeguard=None, stop_when_converged=False))
    plain.optimize(quadratic, n_trials=40)
    assert [{n: p[n] for n in OPTIMUM} for p in points(study)] == points(plain)


def test_a_choice_may_be_none() -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_categorical("kind", ["a", None, 2])
        return quadratic(trial)

    study = create()
    study.optimize(objective, n_trials=8)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_independent_parameters_are_drawn_again_after_a_restart() -> None:
    def objective(trial: optuna.Trial) -> float:
        for name in ("a", "b", "c"):
            trial.suggest_categorical(name, [*"abcdefgh"])
        return quadratic(trial)

    whole, restarted = create(), create()
    whole.optimize(objective, n_trials=14)
    for _ in range(14):
        restarted.sampler = GradientSampler(seed=0)
        restarted.optimize(objective, n_trials=1)
    assert points(whole) == points(restarted)
    assert len({point["a"] + point["b"] + point["c"] for point in points(whole)}) > 8


def test_the_order_of_draws_does_not_depend_on_hashing(tmp_path: Path) -> None:
    script = tmp_path / "draw.py"
    script.write_text(
        "import optuna\n"
        "from optuna_hypergrad import GradientSampler\n"
        "from samplers.studies import create, quadratic\n"
        "tpe = optuna.samplers.TPESampler(seed=0)\n"
        "study = create(GradientSampler(\n"
        "    seed=0, strategy='sign_descent', independent_sampler=tpe))\n"
        "names = 'abcdef'\n"
        "study.optimize(lambda t: [t.suggest_categorical(n, [*names]) for n in names]\n"
        "               and quadratic(t), n_trials=4)\n"
        "print([t.params[n] for t in study.trials for n in names])\n"
    )
    outputs = []
    for seed in ("1", "2"):
        path = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, str(script)]
        outputs.append(subprocess.check_output(command, env=environment, stderr=subprocess.DEVNULL))
    assert outputs[0] == outputs[1] and outputs[0]


def test_a_parameter_that_a_trial_lacks_stays_where_it_was() -> None:
    study = create()
    for names in (["x", "y"], ["x", "y"], ["x"]):
        finish(study, ask(study, names), 2.0 - 0.1 * len(study.trials))
    assert ask(study).params == pytest.approx({"x": -0.3, "y": -0.2})


def test_late_floats_begin_at_their_start() -> None:
    study = create(GradientSampler(start={"late": 0.9}))
    finish(study, ask(study))
    assert ask(study, ["x", "late", "later"]).params == pytest.approx(
        {"x": -0.1, "late": 0.9, "later": 0.0}
    )


def test_integers_and_steps_with_hypergradients_are_rounded() -> None:
    def objective(trial: optuna.Trial) -> float:
        n = trial.suggest_int("n", 0, 40)
        s = trial.suggest_float("s", -1.0, 1.0, step=0.25)
        report_hypergradient(trial, {"n": 2 * (n - 7), "s": 2 * (s - 0.5)})
        return (n - 7) ** 2 + (s - 0.5) ** 2

    study = create(GradientSampler(seed=0))
    study.optimize(objective, n_trials=40)
    assert study.best_params == {"n": 7, "s": 0.5}
    assert all(type(point["n"]) is int and point["s"] % 0.25 == 0 for point in points(study))


def test_ranges_and_parameters_may_change_on_the_way() -> None:
    def objective(trial: optuna.Trial) -> float:
        wide = trial.number < 6
        x = trial.suggest_float("x", -1, 1) if wide else trial.suggest_float("x", 0.5, 3)
        gradient = {"x": 2 * (x - 2)}
        late = 0.0
        if trial.number >= 3:
            late = trial.suggest_float("late", -1, 1)
            gradient["late"] = 2 * (late + 0.3)
        report_hypergradient(trial, gradient)
        return (x - 2) ** 2 + (late + 0.3) ** 2

    study = create(GradientSampler(seed=0))
    study.optimize(objective, n_trials=60)
    assert study.best_params["x"] == pytest.approx(2, abs=0.05)
    assert study.best_params["late"] == pytest.approx(-0.3, abs=0.05)


def test_late_reports_bring_the_search_back() -> None:
    study = create()
    study.optimize(lambda t: t.suggest_float("x", -1, 1) ** 2, n_trials=1)  # forgot to report
    with pytest.warns(UserWarning, match="no trial has reported"):
        finish(study, ask(study), 1.0)
    for _ in range(2):
        finish(study, ask(study), 1.0)
    assert [p["x"] for p in points(study)[2:]] == pytest.approx([0.0, -0.1])


@pytest.mark.parametrize("n_jobs", [1, 4])
def test_a_study_that_reports_nothing_is_never_stopped(n_jobs: int) -> None:
    def objective(trial: optuna.Trial) -> float:
        time.sleep(0.01)
        return trial.suggest_float("x", -1, 1)

    study = create()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        study.optimize(objective, n_trials=20, n_jobs=n_jobs)
    assert len(study.trials) == 20


def test_an_objective_that_reports_nothing_is_left_to_tpe_with_one_warning() -> None:
    study = create()
    with pytest.warns(UserWarning, match="no trial has reported .* TPESampler") as caught:
        study.optimize(lambda t: (t.suggest_float("x", -1, 1) - 0.3) ** 2, n_trials=40)
    assert len(caught) == 1
    assert study.best_value < 1e-2
    assert len({point["x"] for point in points(study)}) > 30


def test_several_objectives_are_refused_like_everywhere_in_optuna() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=GradientSampler())
    with pytest.raises(ValueError, match=r"multi-objective .* GradientSampler"):
        study.optimize(lambda t: (t.suggest_float("x", 0, 1), 0.0), n_trials=1)
    assert study.trials[0].state == TrialState.FAIL  # not left running


def test_a_bound_and_a_single_value_are_settled() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        trial.suggest_float("one", 1, 1)
        report_hypergradient(trial, {"x": 2 * (x - 3), "one": 1.0})
        return (x - 3) ** 2

    study = create()
    study.optimize(objective, n_trials=100)
    assert len(study.trials) < 20 and study.best_params["x"] == pytest.approx(1.0)


def test_convergence_need_not_stop_a_study() -> None:
    study = create(GradientSampler(tolerance=0.02, stop_when_converged=False))
    study.optimize(quadratic, n_trials=40)
    assert len(study.trials) == 40
    asked = create(GradientSampler(tolerance=0.02))
    for _ in range(40):  # ask-and-tell has no loop that could be stopped
        trial = asked.ask()
        asked.tell(trial, quadratic(trial))
    assert asked.sampler.chains(asked)[0].converged


def test_chains_run_side_by_side_from_different_starts() -> None:
    study = create(GradientSampler(seed=0, n_chains=3))
    study.optimize(quadratic, n_trials=12)
    assert claims(study) == [(chain, step) for step in range(4) for chain in range(3)]
    starts = [tuple(point.values()) for point in points(study)[:3]]
    assert len(set(starts)) == 3 and starts[0] == (0.0, 0.0, pytest.approx(1e-2))
    summaries = study.sampler.chains(study)
    assert summaries[0].best_trial == study.best_trial.number
    assert summaries[0].best_value == study.best_value
    assert study.best_trial.user_attrs["hg:chain"] == summaries[0].chain
    assert {summary.steps for summary in summaries} == {4}


def test_a_study_of_chains_ends_when_all_have_converged() -> None:
    study = create(GradientSampler(seed=0, n_chains=2, tolerance=0.01))
    study.optimize(quadratic, n_trials=200)
    assert len(study.trials) < 150
    assert all(summary.converged for summary in study.sampler.chains(study))


def test_hyperband_may_hand_over_a_restricted_study() -> None:
    sampler = GradientSampler(seed=0, stop_when_converged=False)
    study = create(sampler, pruner=optuna.pruners.HyperbandPruner(max_resource=4))

    def objective(trial: optuna.Trial) -> float:
        value = quadratic(trial)
        for step in range(4):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=15)
    assert len(study.trials) == 15
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_retried_trials_keep_the_claim_of_the_failed_one() -> None:
    study = create()
    finish(study, ask(study))
    study.tell(ask(study), state=TrialState.FAIL)
    failed = study.trials[1]
    study.add_trial(  # as RetryHeartbeatStaleTrialCallback does
        optuna.create_trial(
            state=TrialState.WAITING,
            params=failed.params,
            distributions=failed.distributions,
            user_attrs=failed.user_attrs,
            system_attrs={"failed_trial": 1, **failed.system_attrs},
        )
    )
    finish(study, ask(study))
    assert claims(study) == [(0, 0), (0, 1), (0, 1)]
    assert ask(study).params["x"] == pytest.approx(-0.2)


def test_replicates_have_seeds_of_their_own() -> None:
    study = create(GradientSampler(seed=0, n_replicates=4))
    trials = [ask(study) for _ in range(4)]
    assert points(study) == [{"x": 0.0, "y": 0.0}] * 4
    assert len({trial_seed(trial) for trial in trials}) == 4


def test_a_filtered_copy_of_a_study_is_a_fresh_start() -> None:
    study = create()
    finish(study, ask(study))
    study.tell(ask(study), state=TrialState.FAIL)
    for _ in range(3):
        finish(study, ask(study))
    copied = create()
    copied.add_trials(study.get_trials(states=[TrialState.COMPLETE])[1:])
    copied.optimize(quadratic, n_trials=2)
    assert points(copied)[-2]["x"] == 0.0 and points(copied)[-1]["x"] != 0.0


def test_a_step_that_keeps_failing_is_decided_by_the_other_trials() -> None:
    study = create(GradientSampler(n_replicates=2))
    finish(study, ask(study))
    for _ in range(3):
        study.tell(ask(study), state=TrialState.FAIL)
    assert ask(study).params["x"] == -0.1


def test_a_pruned_replicate_may_lack_parameters() -> None:
    study = create(GradientSampler(n_replicates=3))
    study.tell(ask(study, ["x"]), state=TrialState.PRUNED)
    for _ in range(2):
        finish(study, ask(study))
    assert ask(study).params == {"x": -0.1, "y": -0.1}


def test_the_plain_rule_uses_the_entries_that_are_finite() -> None:
    study = create(GradientSampler(safeguard=None))
    for _ in range(2):
        finish(study, ask(study), gradient=lambda name: float("nan") if name == "x" else 1.0)
    assert ask(study).params == pytest.approx({"x": 0.0, "y": -0.2})


def test_numpy_integers_are_integers() -> None:
    sampler = GradientSampler(seed=np.int64(3), n_chains=np.int64(1), n_replicates=np.int32(1))
    study = create(sampler)
    study.optimize(quadratic, n_trials=1)
    assert points(study)[0]["x"] == 0.0


def test_a_start_or_step_size_of_what_is_not_suggested_is_logged_once(warned: list[str]) -> None:
    sampler = GradientSampler(seed=0, start={"X": 0.5, "lr": 0.1}, step_size={"lr_1": 0.2, "y": 1})

    def objective(trial: optuna.Trial) -> float:
        lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=2)
        report_hypergradient(trial, dict.fromkeys(lr.params, 1.0))
        return 0.0

    optuna.create_study(sampler=sampler).optimize(objective, n_trials=3)
    suggested = "which no trial has suggested; they have suggested lr, lr_0, lr_1."
    assert warned == [
        f"GradientSampler: start names 'X', {suggested}",
        f"GradientSampler: step_size names 'y', {suggested}",
    ]
