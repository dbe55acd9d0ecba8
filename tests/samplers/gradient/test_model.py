"""GradientSampler's Gaussian process in studies: what it finds, and what it does not depend on."""

import math
import pickle
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna import storages
from optuna.trial import TrialState

import optuna_hypergrad.samplers.gradient.model as model_module
from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    recommended,
    report_hypergradient,
    trial_seed,
    wants_hypergradient,
)
from optuna_hypergrad.algorithms.ranges import Array
from optuna_hypergrad.reports.objective import read_gradient
from optuna_hypergrad.samplers.gradient.model import Observation
from samplers.studies import constrain, create, points

Objective = Callable[[optuna.Trial], float]


def sampler(seed: int = 0, **options: Any) -> GradientSampler:
    return GradientSampler(seed=seed, strategy="gaussian_process", **options)


def shifted(trial: optuna.Trial) -> float:
    """A bowl in x with exact hypergradients, shifted by a category."""
    x = trial.suggest_float("x", 0.1, 1.1)
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    report_hypergradient(trial, {"x": 2 * (x - 0.9)})
    return (x - 0.9) ** 2 + {"a": 0.3, "b": 0.0, "c": 0.6}[kind]


def bowl_of(d: int, noise: float = 0.0) -> Objective:
    """A bowl in d floats; its hypergradient is exact, its loss has noise of the trial's own."""

    def objective(trial: optuna.Trial) -> float:
        names = [f"x_{i}" for i in range(d)] if d > 1 else ["x"]
        errors = np.array([trial.suggest_float(name, 0.0, 1.0) for name in names]) - 0.3
        errors[1::2] -= 0.4
        if wants_hypergradient(trial):
            report_hypergradient(trial, dict(zip(names, (2 * errors).tolist(), strict=True)))
        error = np.random.default_rng(trial_seed(trial)).normal()
        return float(errors @ errors + noise * error)

    return objective


def true_loss(trial: optuna.trial.FrozenTrial) -> float:
    errors = np.array([*trial.params.values()]) - 0.3
    errors[1::2] -= 0.4
    return float(errors @ errors)


@pytest.mark.parametrize("seed", range(5))
def test_a_category_that_shifts_the_loss_hides_no_optimum(seed: int) -> None:
    study = create(GradientSampler(seed=seed))
    study.optimize(shifted, n_trials=25)
    assert study.best_params["kind"] == "b"
    assert abs(study.best_params["x"] - 0.9) < 0.05


@pytest.mark.slow
def test_beside_a_category_the_search_is_no_worse_than_tpe() -> None:
    best = []
    for kind in (GradientSampler, optuna.samplers.TPESampler):
        studies = [create(kind(seed=seed)) for seed in range(5)]
        for study in studies:
            study.optimize(shifted, n_trials=30)
        best.append([study.best_value for study in studies])
    assert all(ours <= tpe for ours, tpe in zip(*best, strict=True))


def steps_of(params: dict[str, float]) -> Array:
    """Learning rates as they act."""
    return np.array([params[f"lr_{i}"] for i in range(7)]) / (1 - params["momentum"])


def risk_of(params: dict[str, float]) -> float:
    """The probability that a training fails: with large, negative or no learning rates."""
    steps = steps_of(params)
    margins = (0.8 - steps.max()) / 0.06, (steps.min() + 0.12) / 0.03, (steps.mean() - 0.02) / 0.005
    return float(1 - np.prod(1 / (1 + np.exp(-np.clip(margins, -50, 50)))))


def trains_in_a_corner(trial: optuna.Trial) -> float:
    """As LeNet on MNIST: most rates train nothing, and near the best ones some runs fail."""
    for i in range(7):
        trial.suggest_float(f"lr_{i}", -1, 1)
    trial.suggest_float("momentum", 0, 0.99)
    rng = np.random.default_rng(trial.number)
    if rng.random() < risk_of(trial.params):
        return 2.3
    return true_loss_of(trial.params) + 0.007 * abs(rng.normal())


def true_loss_of(params: dict[str, float]) -> float:
    steps = steps_of(params)
    shape = 0.12 * steps[-1] ** 2 + 0.02 * np.abs(np.diff(steps)).mean()
    level = np.log(max(steps.mean(), 1e-3) / 0.35)
    return float(0.04 + 0.012 * level**2 + shape)


@pytest.mark.slow
def test_where_most_trials_fail_a_good_place_that_is_safe_is_recommended() -> None:
    found = []
    for seed in (0, 1, 5, 6):
        study = create(sampler(seed, start={f"lr_{i}": 0.0 for i in range(7)}))
        study.optimize(trains_in_a_corner, n_trials=45)
        params = recommended(study).params
        found.append((risk_of(params), true_loss_of(params)))
    risks, losses = np.transpose(found)
    assert np.median(risks) < 0.1 and np.median(losses) < 0.05


class TestRepetition:
    def test_a_seed_repeats_a_study_and_another_does_not(self) -> None:
        studies = [create(sampler(seed)) for seed in (3, 3, 4)]
        for study in studies:
            study.optimize(bowl_of(2, noise=0.1), n_trials=9)
        assert points(studies[0]) == points(studies[1]) != points(studies[2])

    def test_another_process_goes_on_where_the_first_stopped(self) -> None:
        whole, halved = create(sampler()), create(sampler())
        whole.optimize(shifted, n_trials=12)
        for again in (pickle.loads(pickle.dumps(halved.sampler)), sampler(), sampler()):
            halved.sampler = again
            halved.optimize(shifted, n_trials=4)
        assert points(whole) == points(halved)

    def test_a_copy_in_another_storage_goes_on_like_the_original(self, tmp_path: Path) -> None:
        study, copied = create(sampler()), f"sqlite:///{tmp_path}/copy.db"
        study.optimize(shifted, n_trials=9)
        optuna.copy_study(
            from_study_name=study.study_name,
            from_storage=study._storage,
            to_storage=copied,
        )
        copy = optuna.load_study(study_name=None, storage=copied, sampler=sampler())
        for one in (study, copy):
            one.optimize(shifted, n_trials=3)
        assert points(study) == points(copy)

    def test_the_order_in_which_workers_finished_does_not_matter(self) -> None:
        found = []
        for has_memory in (True, False):
            study = create(sampler())
            for batch in range(3):
                trials = [study.ask() for _ in range(3)]
                values = [bowl_of(2)(trial) for trial in trials]
                for trial, value in [*zip(trials, values, strict=True)][:: -1 if batch else 1]:
                    study.tell(trial, value)
                    if has_memory:
                        study.sampler.infer_relative_search_space(study, study.trials[0])
            if not has_memory:
                study.sampler = sampler()
            bowl_of(2)(study.ask())
            found.append(study.trials[-1].params)
        assert found[0] == found[1]


def rounds(n_workers: int, target: float, most: int) -> int:
    """How many rounds of asking and telling it takes until a trial's true loss is small."""
    study = create(sampler())
    objective = bowl_of(9, noise=0.02)
    for done in range(1, most + 1):
        trials = [study.ask() for _ in range(n_workers)]
        values = [objective(trial) for trial in trials]
        for trial, value in zip(trials, values, strict=True):
            study.tell(trial, value)
        if min(map(true_loss, study.trials[-n_workers:])) < target:
            return done
    return most + 1


@pytest.mark.parametrize("n_suggested", [0, 2])
def test_workers_that_ask_at_once_get_different_points(n_suggested: int) -> None:
    """Also if another one has suggested none or some of its parameters."""
    study = create(sampler())
    study.optimize(bowl_of(3, noise=0.1), n_trials=16)
    other = study.ask()
    for i in range(n_suggested):
        other.suggest_float(f"x_{i}", 0.0, 1.0)
    points = [[t.suggest_float(f"x_{i}", 0.0, 1.0) for i in range(3)] for t in (study.ask(), other)]
    assert np.abs(np.subtract(*points)).max() > 1e-3


def test_no_point_of_a_small_space_runs_again_and_again() -> None:
    def objective(trial: optuna.Trial) -> float:
        x, y = (trial.suggest_int(name, 1, 8) for name in "xy")
        kind = trial.suggest_categorical("kind", ["a", "b", "c"])
        return min((x - 3) ** 2 + (y - 3) ** 2, (x - 7) ** 2 + (y - 7) ** 2 - 0.5) + (kind != "a")

    study = create(sampler())
    study.optimize(objective, n_trials=50)
    counts = Counter(tuple(trial.params.values()) for trial in study.trials)
    assert len(counts) > 40 and max(counts.values()) <= 4


def test_in_a_space_of_a_few_points_they_run_again() -> None:
    study = create(sampler())
    study.optimize(lambda trial: trial.suggest_int("x", 1, 3) * 1.0, n_trials=12)
    assert study.best_value == 1


def test_what_gave_the_scale_of_losses_stays_among_the_observations() -> None:
    trial = optuna.trial.create_trial(value=0.0)
    observations = [Observation(trial, 1.0 / (1 + i), {}) for i in range(200)]
    kept = model_module.chosen(observations)
    assert len(kept) == model_module.MAX_RUNS
    assert kept[:10] == observations[:10] and kept[-48:] == observations[-48:]
    assert kept[10:48] == observations[114:152]


def test_four_workers_need_less_than_half_as_many_rounds_as_one() -> None:
    assert rounds(4, 0.15, 25) < 0.5 * rounds(1, 0.15, 60)


class TestOtherTrials:
    def test_an_enqueued_point_runs_and_counts(self) -> None:
        study = create(sampler())
        study.enqueue_trial({"x": 0.91, "kind": "b"})
        study.optimize(shifted, n_trials=12)
        assert study.trials[0].params == {"x": 0.91, "kind": "b"}
        assert abs(study.best_params["x"] - 0.9) < 0.01

    def test_trials_of_other_samplers_count(self) -> None:
        study = create(optuna.samplers.RandomSampler(seed=0))
        study.optimize(shifted, n_trials=12)
        study.sampler = sampler()
        study.optimize(shifted, n_trials=3)
        assert study.best_trial.number >= 12
        assert abs(study.best_params["x"] - 0.9) < 0.05

    @pytest.mark.parametrize("how", ["failed", "nan", "pruned"])
    def test_trials_that_end_without_a_loss_are_passed_over(self, how: str) -> None:
        def objective(trial: optuna.Trial) -> float:
            value = shifted(trial)
            if trial.params["x"] < 0.4:
                if how == "nan":
                    return float("nan")
                raise optuna.TrialPruned if how == "pruned" else RuntimeError
            return value

        study = create(sampler())
        study.optimize(objective, n_trials=25, catch=RuntimeError)
        n_lost = len([t for t in study.trials if t.state != TrialState.COMPLETE])
        assert 1 <= n_lost < 10
        assert abs(study.best_params["x"] - 0.9) < 0.05

    def test_a_failure_that_reported_nan_has_diverged(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", 0.0, 1.0)
            report_hypergradient(trial, {"x": math.nan if x < 0.3 else 2 * (x - 0.6)})
            return math.nan if x < 0.3 else (x - 0.6) ** 2

        study = create(sampler())
        study.optimize(objective, n_trials=15)
        failed = [t for t in study.trials if t.state == TrialState.FAIL]
        known = [Observation.of(trial, maximize=False) for trial in failed]
        assert failed
        assert all(one is not None and one.loss == math.inf for one in known)
        assert abs(study.best_params["x"] - 0.6) < 0.02

    def test_a_failed_point_is_not_the_next_again(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(2), n_trials=8)
        failed = []
        for _ in range(4):
            trial = study.ask()
            bowl_of(2)(trial)
            failed.append([*trial.params.values()])
            study.tell(trial, state=TrialState.FAIL)
        distances = [np.abs(np.subtract(a, b)).max() for a, b in pairwise(failed)]
        assert min(distances) > 1e-3

    def test_a_retry_runs_the_point_of_the_failed_trial_and_decides_for_itself(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(12), n_trials=10)
        failed = study.ask()
        bowl_of(12)(failed)
        study.tell(failed, state=TrialState.FAIL)
        name = "RetryHeartbeatStaleTrialCallback"  # since Optuna 4.9
        retrying = getattr(storages, name, None) or storages.RetryFailedTrialCallback
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            retry_failed = retrying()
        retry_failed(study, study.trials[-1])
        retry = study.ask()
        bowl_of(12)(retry)
        assert retry.number == failed.number + 1 and retry.params == failed.params
        proposals = [study.trials[n].system_attrs["hg:proposal"] for n in (10, 11)]
        assert [one["trial"] for one in proposals] == [10, 11]
        assert trial_seed(retry) != trial_seed(failed)
        study.tell(retry, 1.0)
        study.optimize(bowl_of(12), n_trials=1)
        assert study.trials[-1].params != retry.params

    def test_a_category_that_had_other_choices_is_another_parameter(self) -> None:
        study = create(sampler())
        study.optimize(shifted, n_trials=8)
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED,
                params={"x": 0.5, "kind": "old"},
                distributions={
                    "x": study.trials[0].distributions["x"],
                    "kind": optuna.distributions.CategoricalDistribution(["old", "b"]),
                },
            )
        )
        study.optimize(shifted, n_trials=2)
        assert recommended(study).params["kind"] != "old"

    @pytest.mark.parametrize("start", ["best", {"x": 0.93}], ids=str)
    def test_a_start_counts_beside_the_trials_of_others(self, start: Any) -> None:
        study = create(optuna.samplers.RandomSampler(seed=0))
        study.optimize(bowl_of(1), n_trials=3)
        best = study.best_params["x"]
        study.sampler = sampler(start=start)
        study.optimize(bowl_of(1), n_trials=2)
        xs = [trial.params["x"] for trial in study.trials[3:]]
        assert xs[0] == (best if start == "best" else 0.93) and xs[1] != xs[0]

    def test_an_infeasible_trial_is_a_bad_one(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", 0, 1)
            constrain(trial, 0.5 - x)
            return x

        study = create(sampler())
        study.optimize(objective, n_trials=20)
        assert sum(trial.params["x"] < 0.5 for trial in study.trials[8:]) < 6
        assert 0.5 <= recommended(study).params["x"] < 0.6

    def test_a_worker_that_died_changes_no_result(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(2), n_trials=3)
        bowl_of(2)(study.ask())  # runs for ever
        study.ask()  # died before it had parameters
        study.optimize(bowl_of(2), n_trials=18)
        assert study.best_value < 1e-3

    def test_a_parameter_that_is_new_is_searched(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", -1, 1)
            y = trial.suggest_float("y", -1, 1) if trial.number >= 4 else 0.5
            return x**2 + y**2

        study = create(sampler())
        study.optimize(objective, n_trials=12)
        assert all(-1 <= trial.params["y"] <= 1 for trial in study.trials[4:])

    def test_a_fixed_parameter_stays_fixed(self) -> None:
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            fixed = optuna.samplers.PartialFixedSampler({"kind": "c"}, sampler())
        study = create(fixed)
        study.optimize(shifted, n_trials=15)
        assert {trial.params["kind"] for trial in study.trials} == {"c"}
        assert abs(study.best_params["x"] - 0.9) < 0.1

    def test_a_study_that_is_maximised(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            return -shifted(trial)  # the hypergradient is that of the loss, all the same

        study = create(sampler(), direction="maximize")
        study.optimize(objective, n_trials=25)
        assert study.best_value > -0.0025

    def test_threads_share_a_sampler(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(2), n_trials=16, n_jobs=4)
        assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
        assert len({tuple(trial.params.values()) for trial in study.trials}) > 12


def test_constraints_hand_over_to_sign_descent() -> None:
    def objective(trial: optuna.Trial) -> float:
        constrain(trial, 0.5 - trial.suggest_float("x", 0.0, 1.0))
        report_hypergradient(trial, {"x": 1.0})
        return trial.params["x"]

    study = create(GradientSampler(seed=0, stop_when_converged=False))
    study.optimize(objective, n_trials=3)
    kinds = [("hg:proposal" in t.system_attrs, "hg:claim" in t.system_attrs) for t in study.trials]
    assert kinds == [(True, False), (False, True), (False, True)]


@pytest.mark.parametrize(
    "given", [{"n_replicates": 2}, {"step_size": {"x": 0.1}}, {"safeguard": None}, {"n_chains": 2}]
)
def test_arguments_of_descent_ask_for_descent(given: dict[str, Any]) -> None:
    study = create(GradientSampler(seed=0, **given))
    study.ask()
    assert "hg:claim" in study.trials[0].system_attrs
    with pytest.raises(
        ValueError, match=f"{next(iter(given))} is an argument of strategy='sign_descent'"
    ):
        sampler(**given)


def test_more_than_64_parameters_are_left_to_descent() -> None:
    def objective(trial: optuna.Trial) -> float:
        return sum(trial.suggest_float(f"x{i}y", 0, 1) for i in range(65))

    study = create(GradientSampler(seed=0))
    study.optimize(objective, n_trials=2)
    assert "hg:claim" in study.trials[1].system_attrs


def test_the_process_is_fitted_to_a_bounded_number_of_trials() -> None:
    study = create(optuna.samplers.RandomSampler(seed=0))
    study.optimize(bowl_of(2), n_trials=150)
    observations = [model_module.Observation.of(t, maximize=False) for t in study.trials]
    known = [one for one in observations if one is not None]
    fitted = model_module.chosen(known)
    assert len(fitted) == model_module.MAX_RUNS
    assert min(known, key=lambda one: one.loss) in fitted and known[-1] in fitted
    study.sampler = sampler()
    began = time.perf_counter()
    study.optimize(bowl_of(2), n_trials=2)
    assert time.perf_counter() - began < 20


class TestWanting:
    def test_samplers_without_a_use_for_it_do_not_want_one(self) -> None:
        def wanted(one: optuna.samplers.BaseSampler) -> bool:
            return wants_hypergradient(create(one).ask())

        assert not wanted(optuna.samplers.TPESampler())
        assert wanted(PopulationSampler(seed=0, mutation="teacher"))
        assert wanted(GradientSampler(strategy="sign_descent"))
        assert not wanted(sampler())  # before anything is known

    def test_many_hyperparameters_want_some(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(18), n_trials=12)
        reported = [bool(read_gradient(trial)) for trial in study.trials]
        assert [wants_hypergradient(trial) for trial in study.trials] == reported
        assert not any(reported[:5]) and 1 <= sum(reported[5:]) < 7

    def test_what_was_wanted_but_is_never_reported_is_not_asked_for_again_and_again(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            return sum(trial.suggest_float(f"x_{i}", 0, 1) ** 2 for i in range(18))

        study = create(sampler())
        study.optimize(objective, n_trials=14)
        assert 1 <= sum(wants_hypergradient(trial) for trial in study.trials) <= 5

    @pytest.mark.parametrize("error", [MemoryError, optuna.TrialPruned])
    def test_where_it_never_comes_trials_without_go_on(self, error: type[Exception]) -> None:
        def objective(trial: optuna.Trial) -> float:
            loss = sum(trial.suggest_float(f"x_{i}", 0, 1) ** 2 for i in range(18))
            if wants_hypergradient(trial):
                raise error
            return loss

        study = create(sampler())
        study.optimize(objective, n_trials=25, catch=MemoryError)
        assert sum(trial.state == TrialState.COMPLETE for trial in study.trials) >= 21

    def test_not_all_workers_are_asked_at_once(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(18), n_trials=6)
        assert sum(wants_hypergradient(study.ask()) for _ in range(8)) <= 2

    def test_a_finished_trial_and_another_process_say_the_same(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(18), n_trials=6)
        running = study.ask()
        assert wants_hypergradient(running) == wants_hypergradient(study.trials[-1])


class TestRecommended:
    def test_it_is_better_than_the_luckiest_trial(self) -> None:
        best, chosen = [], []
        for seed in range(20):
            study = create(optuna.samplers.RandomSampler(seed=seed))
            noise = np.random.default_rng(seed)
            study.optimize(lambda t, n=noise: bowl_of(2)(t) + 0.15 * n.normal(), n_trials=30)
            best.append(true_loss(study.best_trial))
            chosen.append(true_loss(recommended(study)))
        assert np.mean(chosen) < 0.8 * np.mean(best)

    def test_of_few_trials_it_is_the_best(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(2, noise=1.0), n_trials=4)
        assert recommended(study).number == study.best_trial.number

    def test_of_a_study_that_is_maximised(self) -> None:
        study = create(optuna.samplers.RandomSampler(seed=0), direction="maximize")
        study.optimize(lambda trial: -bowl_of(2)(trial), n_trials=30)
        ranked = sorted(study.trials, key=true_loss)
        assert recommended(study).number in [trial.number for trial in ranked[:3]]

    def test_no_infeasible_pruned_or_failed_trial(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            value = bowl_of(2)(trial)
            constrain(trial, 0.5 - trial.params["x_0"])
            if trial.number % 5 == 0:
                raise optuna.TrialPruned
            return float("nan") if trial.number % 5 == 1 else value

        study = create(optuna.samplers.RandomSampler(seed=0))
        study.optimize(objective, n_trials=40)
        chosen = recommended(study)
        assert chosen.params["x_0"] >= 0.5 and chosen.state == TrialState.COMPLETE

    def test_a_good_trial_amid_divergence_is_not_recommended(self) -> None:
        """Half of the first ten diverge, all beyond 0.5, where others have the lowest losses."""

        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", 0, 1)
            if x > 0.5 and trial.number % 5:
                report_hypergradient(trial, {"x": math.nan})
                return math.nan
            return 1.0 - 0.2 * x

        study = create(optuna.samplers.RandomSampler(seed=0))
        study.optimize(objective, n_trials=40)
        assert study.best_params["x"] > 0.5 and recommended(study).params["x"] < 0.5

    def test_it_is_refused_where_nothing_can_be_recommended(self) -> None:
        with pytest.raises(ValueError, match="no trial has completed"):
            recommended(create(sampler()))
        with pytest.raises(ValueError, match="study"):
            recommended(optuna.create_study(directions=["minimize"] * 2))

    def test_a_copy_is_returned(self) -> None:
        study = create(sampler())
        study.optimize(bowl_of(2), n_trials=6)
        recommended(study).user_attrs["mine"] = 1
        assert "mine" not in study.trials[recommended(study).number].user_attrs
