"""Constraints: feasibility as Optuna reads it, and the way back to where it is given."""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad import (
    ConsensusPruner,
    GradientSampler,
    PopulationSampler,
    best_schedules,
    lineage,
    outer_steps,
    report_hypergradient,
)
from optuna_hypergrad.dashboard.note import summarize
from optuna_hypergrad.reports import StoredDataError
from optuna_hypergrad.reports.objective import read_constraint_gradients, read_constraints
from optuna_hypergrad.samplers.studies import rank_key
from optuna_hypergrad.visualization.charts import Line
from optuna_hypergrad.visualization.figures import convergence
from samplers.studies import IS_OPTUNA_5, constrain, create, points

pytestmark = pytest.mark.usefixtures("sign_descent")

needs_optuna_5 = pytest.mark.skipif(not IS_OPTUNA_5, reason="Trial.set_constraint is of Optuna 5")

TARGET = np.array([0.8, 0.6])


class Region:
    """(x − 0.8)² + (y − 0.6)² under one constraint, with its optimum in closed form."""

    def __init__(
        self,
        value: Callable[[np.ndarray], float],
        gradient: Callable[[np.ndarray], np.ndarray],
        optimum: np.ndarray,
    ) -> None:
        self.value, self.gradient = value, gradient
        self.least = float(np.sum((optimum - TARGET) ** 2))

    def objective(self, trial: optuna.Trial, with_gradient: bool = True) -> float:
        at = np.array([trial.suggest_float(name, -1, 1) for name in "xy"])
        constrain(trial, self.value(at))
        report_hypergradient(trial, dict(zip("xy", 2 * (at - TARGET), strict=True)))
        if with_gradient and self.value(at) > 0:
            slope = dict(zip("xy", self.gradient(at), strict=True))
            report_hypergradient(trial, slope, constraint="c")
        return float(np.sum((at - TARGET) ** 2))

    def feasible(self, study: optuna.Study) -> list[FrozenTrial]:
        at = [np.array([trial.params["x"], trial.params["y"]]) for trial in study.trials]
        return [t for t, point in zip(study.trials, at, strict=True) if self.value(point) <= 0]


def half_plane(normal: list[float], bound: float) -> Region:
    """n·p ≤ b; the optimum is the projection of the target."""
    n = np.array(normal)
    optimum = TARGET - max(n @ TARGET - bound, 0.0) / (n @ n) * n
    return Region(lambda at: float(n @ at - bound), lambda at: n, optimum)


def disc(radius: float) -> Region:
    """|p| ≤ r; the optimum lies towards the target."""
    optimum = TARGET * radius / np.linalg.norm(TARGET)
    return Region(lambda at: float(at @ at - radius**2), lambda at: 2 * at, optimum)


STRIP = half_plane([1.0, 1.0], -0.5)  # without the start of a search
REGIONS = [STRIP, half_plane([1.0, 1.0], 0.8), half_plane([1.0, 0.0], 0.3), disc(0.5)]


def step(
    study: optuna.Study,
    value: float,
    slope: float = 1.0,
    excess: float | None = None,
    way_back: float | None = None,
) -> optuna.Trial:
    """One finished trial in one parameter."""
    trial = study.ask()
    trial.suggest_float("x", -1, 1)
    report_hypergradient(trial, {"x": slope})
    if excess is not None:
        constrain(trial, excess)
    if way_back is not None:
        report_hypergradient(trial, {"x": way_back}, constraint="c")
    study.tell(trial, value)
    return trial


def where(study: optuna.Study) -> float:
    """Where the next trial runs."""
    return study.ask().suggest_float("x", -1, 1)


class TestAgainstOptuna:
    @needs_optuna_5
    def test_constraints_are_read_as_optuna_reads_them(self) -> None:
        with pytest.warns(FutureWarning, match="constraints_func"):
            sampler = optuna.samplers.TPESampler(seed=0, constraints_func=lambda trial: (1.0, -2))
        study = optuna.create_study(sampler=sampler)

        def objective(trial: optuna.Trial) -> float:
            if trial.number:
                trial.set_constraint("memory", 3.0)
                trial.set_constraint("time", -math.inf)
            return trial.suggest_float("x", 0, 1)

        study.optimize(objective, n_trials=2)
        study.sampler = optuna.samplers.RandomSampler()
        study.optimize(objective, n_trials=1)
        assert [read_constraints(trial) for trial in study.trials] == [
            {"0": 1.0, "1": -2.0},
            {"0": 1.0, "1": -2.0, "memory": 3.0, "time": -math.inf},
            {"memory": 3.0, "time": -math.inf},
        ]
        assert [read_constraints(t) for t in study.trials] == [t.constraints for t in study.trials]

    def test_trials_are_in_the_order_of_optunas_constrained_domination(self) -> None:
        from optuna.samplers.nsgaii._constraints_evaluation import _constrained_dominates
        from optuna.study import StudyDirection

        rng = np.random.default_rng(0)
        values = rng.integers(0, 4, size=40) / 2
        constraints = rng.integers(-2, 3, size=(40, 2)) / 2
        trials = [
            optuna.create_trial(
                value=float(value), system_attrs={"constraints": [float(c) for c in both]}
            )
            for value, both in zip(values, constraints, strict=True)
        ]
        for maximize in (False, True):
            direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
            for one, other in itertools.product(trials, repeat=2):
                if _constrained_dominates(one, other, [direction]):
                    assert rank_key(one, maximize) < rank_key(other, maximize)

    def test_what_is_no_constraint_of_optunas_is_refused(self) -> None:
        for damaged in ([math.nan], ["1"], 3):
            trial = optuna.create_trial(value=1.0, system_attrs={"constraints": damaged})
            with pytest.raises(StoredDataError, match="constraints is damaged"):
                read_constraints(trial)


class TestSearch:
    def test_more_trials_are_feasible_than_of_tpe_and_better_ones(self) -> None:
        study = create(GradientSampler(seed=0, stop_when_converged=False))
        study.optimize(STRIP.objective, n_trials=40)
        if IS_OPTUNA_5:
            tpe = create(optuna.samplers.TPESampler(seed=0))
            tpe.optimize(STRIP.objective, n_trials=40)
            assert len(STRIP.feasible(study)) > len(STRIP.feasible(tpe))
            assert study.best_value < tpe.best_value
        assert len(STRIP.feasible(study)) >= 20

    @pytest.mark.parametrize("region", REGIONS)
    def test_comes_near_the_optimum_on_the_bound_of_the_region(self, region: Region) -> None:
        study = create()
        study.optimize(region.objective, n_trials=60)
        best = min(region.feasible(study), key=lambda trial: trial.value)
        assert region.least <= best.value < region.least + 0.01
        summary = study.sampler.chains(study)[0]
        assert (summary.best_trial, summary.converged) == (best.number, True)

    @pytest.mark.parametrize("region", REGIONS)
    def test_is_feasible_in_the_end_without_gradients_of_constraints(self, region: Region) -> None:
        study = create()
        study.optimize(lambda trial: region.objective(trial, False), n_trials=60)
        assert len(region.feasible(study)) >= 5
        assert study.trials[study.sampler.chains(study)[0].best_trial] in region.feasible(study)

    def test_an_infeasible_point_is_left_along_the_gradient_of_its_constraint(self) -> None:
        study = create()
        step(study, 3.0, slope=-1.0, excess=-1.0)
        step(study, 2.0, slope=-1.0, excess=0.5, way_back=7.0)
        assert where(study) == pytest.approx(0.0)
        steps = outer_steps(study)
        assert [one.verdict for one in steps] == ["accepted", "accepted"]
        assert (steps[1].violation, steps[1].sign, steps[1].step_size) == (
            0.5,
            {"x": 1},
            {"x": 0.1},
        )

    def test_the_gradients_of_violated_constraints_are_summed(self) -> None:
        study = create()
        step(study, 3.0, slope=-1.0)
        trial = study.ask()
        trial.suggest_float("x", -1, 1)
        report_hypergradient(trial, {"x": 1.0})
        for name, value, slope in (("a", 1.0, -3.0), ("b", 2.0, 2.0), ("c", -1.0, 5.0)):
            constrain(trial, value, name)
            report_hypergradient(trial, {"x": slope}, constraint=name)
        study.tell(trial, 2.0)
        assert where(study) == pytest.approx(0.2)  # −3 + 2 < 0; c is not violated
        assert read_constraint_gradients(study.trials[1]) == {
            "a": {"x": -3.0},
            "b": {"x": 2.0},
            "c": {"x": 5.0},
        }

    def test_without_such_a_gradient_an_infeasible_point_is_rejected(self) -> None:
        study = create()
        step(study, 3.0, slope=-1.0, excess=-1.0)
        step(study, 2.0, slope=-1.0, excess=0.5)
        assert where(study) == 0.0
        last = outer_steps(study)[-1]
        assert (last.verdict, last.step_size) == ("rejected", {"x": 0.05})

    def test_the_best_loss_does_not_excuse_an_infeasible_point(self) -> None:
        study = create()
        step(study, 3.0, slope=-1.0)
        step(study, -1e9, slope=-1.0, excess=1e-9)
        assert outer_steps(study)[-1].verdict == "rejected"

    def test_the_way_back_must_lead_nearer(self) -> None:
        study = create()
        step(study, 3.0, slope=-1.0)
        step(study, 2.0, slope=-1.0, excess=0.5, way_back=-1.0)
        step(study, 2.0, slope=-1.0, excess=0.6, way_back=-1.0)
        assert where(study) == 0.0
        assert outer_steps(study)[-1].verdict == "rejected"

    def test_while_nothing_is_feasible_the_loss_is_followed_where_that_helps(self) -> None:
        """Such as where a constraint asks for a quality that training must first reach."""
        study = create()

        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", -1, 1)
            report_hypergradient(trial, {"x": 2 * (x - 0.8)})
            constrain(trial, (x - 0.8) ** 2 - 0.1)
            return (x - 0.8) ** 2

        study.optimize(objective, n_trials=10)
        at = [trial.params["x"] for trial in study.trials]
        np.testing.assert_allclose(at[:9], np.arange(9) / 10, atol=1e-12)
        assert study.best_params["x"] == pytest.approx(0.8)

    def test_and_where_it_does_not_the_search_starts_elsewhere(self) -> None:
        study = create()
        step(study, 3.0, excess=0.5)
        step(study, 2.0, excess=0.5)
        starts = {where(study)}
        assert starts.isdisjoint({0.0, -0.1, -0.2})
        again = create()
        step(again, 3.0, excess=0.5)
        step(again, 2.0, excess=0.5)
        assert {where(again)} == starts

    def test_of_two_infeasible_points_the_nearer_is_better(self) -> None:
        study = create()
        step(study, 1.0, excess=0.5, way_back=1.0)
        step(study, 2.0, excess=0.4, way_back=1.0)
        step(study, 0.0, excess=0.45, way_back=-1.0)
        assert outer_steps(study)[-1].verdict == "rejected"
        assert study.sampler.chains(study)[0].best_trial == 1

    @pytest.mark.parametrize("kind", ["float", "int", "category"])
    @pytest.mark.parametrize("seed", range(3))
    def test_what_another_sampler_draws_does_not_shorten_the_steps(
        self, kind: str, seed: int
    ) -> None:
        """The search ends at the same optimum, (0.8, 0.6), as without constraints."""

        def objective(trial: optuna.Trial) -> float:
            x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
            if kind == "float":
                excess = trial.suggest_float("z", -1, 1) - 0.2
            elif kind == "int":
                excess = trial.suggest_int("n", 1, 10) - 6.0
            else:
                excess = 1.0 if trial.suggest_categorical("c", ["a", "b", "d"]) == "a" else -1.0
            constrain(trial, excess)
            report_hypergradient(trial, {"x": 2 * (x - 0.8), "y": 2 * (y - 0.6)})
            return (x - 0.8) ** 2 + (y - 0.6) ** 2

        others = optuna.samplers.RandomSampler(seed)  # TPE learns constraints from Optuna 5 on only
        study = create(GradientSampler(seed=seed, independent_sampler=others))
        study.optimize(objective, n_trials=60)
        feasible = [t for t in study.trials if all(v <= 0 for v in read_constraints(t).values())]
        assert len(study.trials) < 60 and len(feasible) < len(study.trials)
        assert min(trial.value for trial in feasible) < 1e-5

    def test_it_is_drawn_anew_three_times_before_the_point_is_left(self) -> None:
        study = create()
        at, kinds = [], []
        for excess in (-1.0, 1.0, 1.0, 1.0, 1.0, -1.0):
            trial = study.ask()
            at.append(trial.suggest_float("x", -1, 1))
            kinds.append(trial.suggest_float("z", -1, 1))
            report_hypergradient(trial, {"x": -1.0})
            constrain(trial, excess)
            study.tell(trial, 1.0 - at[-1])
        assert at == [0.0, 0.1, 0.1, 0.1, 0.1, 0.0] and len({*kinds[1:5]}) == 4
        assert [one.verdict for one in outer_steps(study)[1:5]] == ["rejected"] * 4
        assert [one.step_size["x"] for one in outer_steps(study)[:5]] == [0.1] * 4 + [0.05]

    def test_one_run_does_not_make_a_feasible_best_point_infeasible(self) -> None:
        study = create()
        for loss, excess in ((3.0, -1.0), (2.0, -1.0), (9.0, -1.0), (2.0, 1.0)):
            step(study, loss, slope=-1.0, excess=excess)  # the last is the best, once more
        assert where(study) == pytest.approx(0.15)  # on from there by half a step

    def test_a_gradient_of_zero_is_as_good_as_none(self) -> None:
        for way_back in (None, 0.0):
            study = create()
            step(study, 3.0, slope=-1.0)
            step(study, 2.0, slope=-1.0, excess=0.5, way_back=way_back)
            step(study, 3.0, slope=-1.0)
            assert where(study) == pytest.approx(0.05)
            assert outer_steps(study)[1].verdict == "rejected"
        study = create()
        for _ in range(2):
            step(study, 3.0, slope=-1.0, excess=0.5, way_back=0.0)
        assert outer_steps(study)[-1].step_size == {}  # nothing feasible is known: elsewhere

    @pytest.mark.parametrize("everywhere", [True, False])
    def test_where_only_a_constraint_is_reported_the_search_ends(self, everywhere: bool) -> None:
        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", -1, 1)
            constrain(trial, x + 0.05)
            if everywhere or x > -0.05:
                report_hypergradient(trial, {"x": 1.0}, constraint="c")
            return x

        study = create()
        study.optimize(objective, n_trials=40)
        assert len(study.trials) == 11  # one infeasible, ten of which none can move
        assert {trial.params["x"] for trial in study.trials[1:]} == {-0.1}

    def test_mean_constraints_decide_a_step_of_replicates(self) -> None:
        for values, verdict in (([-1.0, 0.5, 0.1], "accepted"), ([-0.1, 0.5, 0.1], "rejected")):
            study = create(GradientSampler(seed=0, n_replicates=3))
            for _ in range(3):
                step(study, 3.0, slope=-1.0)
            for value in values:
                step(study, 2.0, slope=-1.0, excess=value)
            assert outer_steps(study)[-1].verdict == verdict

    def test_trials_without_constraints_are_feasible(self) -> None:
        study = create()
        step(study, 3.0, slope=-1.0, excess=1.0, way_back=-1.0)
        step(study, 5.0, slope=-1.0)
        assert study.sampler.chains(study)[0].best_trial == 1
        assert rank_key(study.trials[1], False) == (0.0, 5.0)

    def test_the_plain_rule_rejects_nothing(self) -> None:
        study = create(GradientSampler(seed=0, safeguard=None))
        for _ in range(3):
            step(study, 3.0, slope=-1.0, excess=1.0)
        assert where(study) == pytest.approx(0.3)

    def test_the_best_start_is_feasible(self) -> None:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for x, excess in ((0.3, 0.1), (0.5, -0.1), (0.4, 0.0)):
            study.enqueue_trial({"x": x})
            trial = study.ask()
            constrain(trial, excess)
            study.tell(trial, trial.suggest_float("x", -1, 1))
        for sampler in (GradientSampler(seed=0, start="best"), PopulationSampler(start="best")):
            study.sampler = sampler
            assert where(study) == 0.4

    def test_the_chain_with_the_best_feasible_trial_comes_first(self) -> None:
        study = create(GradientSampler(seed=0, n_chains=2))
        step(study, 1.0, excess=0.5)
        step(study, 2.0, excess=-0.5)
        assert [one.chain for one in study.sampler.chains(study)] == [1, 0]

    def test_another_sampler_goes_on_where_the_first_stopped(self) -> None:
        whole, halved = create(), create()
        whole.optimize(STRIP.objective, n_trials=14)
        for _ in range(7):
            halved.sampler = GradientSampler(seed=0)
            halved.optimize(STRIP.objective, n_trials=2)
        assert points(whole) == points(halved)

    def test_a_parameter_that_only_a_constraint_depends_on_is_learned(self) -> None:
        study = create()

        def objective(trial: optuna.Trial) -> float:
            x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
            report_hypergradient(trial, {"x": 2 * x})
            constrain(trial, 0.35 - y)
            report_hypergradient(trial, {"y": -1.0}, constraint="c")
            return x**2

        study.optimize(objective, n_trials=6)
        at = [trial.params["y"] for trial in study.trials]
        np.testing.assert_allclose(at, [0.0, 0.1, 0.2, 0.3, 0.4, 0.4], atol=1e-12)

    def test_consensus_settles_nothing_among_constraints(self) -> None:
        for excess, is_settled in ((None, True), (-1.0, False)):
            study = create(GradientSampler(seed=0, n_replicates=3), pruner=ConsensusPruner())
            trials = [study.ask() for _ in range(3)]
            for trial in trials:
                trial.suggest_float("x", -1, 1)
                trial.report(1.0, step=0)
            for trial in trials[:2]:
                report_hypergradient(trial, {"x": 0.3})
                if excess is not None:
                    constrain(trial, excess)
                study.tell(trial, 1.0)
            assert trials[2].should_prune() is is_settled


class TestReports:
    def test_each_constraint_is_reported_once(self) -> None:
        trial = create().ask()
        trial.suggest_float("x", -1, 1)
        report_hypergradient(trial, {"x": 1.0}, constraint="a")
        report_hypergradient(trial, {"x": 2.0}, constraint="b")
        with pytest.raises(ValueError, match="already reported a hypergradient of the constraint"):
            report_hypergradient(trial, {"x": 1.0}, constraint="a")
        with pytest.raises(ValueError, match="constraint must be a name, got 0"):
            report_hypergradient(trial, {"x": 1.0}, constraint=0)  # type: ignore[arg-type]

    def test_an_empty_report_names_the_constraint(self) -> None:
        trial = create().ask()
        trial.suggest_float("x", -1, 1)
        with pytest.raises(ValueError, match=r"gradient is empty; .* constraint 'a'"):
            report_hypergradient(trial, {}, constraint="a")

    @pytest.mark.parametrize("sampler", [GradientSampler(seed=0), PopulationSampler(seed=0)])
    def test_an_unknown_constraint_is_warned_of(self, sampler: Any) -> None:
        study = create(sampler)
        with pytest.warns(UserWarning, match="of the constraint 'd', but its constraints are 'c'"):
            trial = study.ask()
            trial.suggest_float("x", -1, 1)
            report_hypergradient(trial, {"x": 1.0})
            report_hypergradient(trial, {"x": 1.0}, constraint="d")
            constrain(trial, 1.0)
            study.tell(trial, 1.0)

    def test_entries_that_are_not_finite_say_nothing(self) -> None:
        study = create()
        step(study, 3.0, slope=-1.0)
        step(study, 2.0, slope=-1.0, excess=0.5, way_back=math.nan)
        assert outer_steps(study)[-1].verdict == "rejected"  # as if it were not reported


class TestConstraintsFunc:
    def sampler(self, kind: type[Any], **options: Any) -> Any:
        if not IS_OPTUNA_5:
            return kind(seed=0, **options)
        with pytest.warns(FutureWarning, match="trial.set_constraint"):
            return kind(seed=0, **options)

    @pytest.mark.parametrize("kind", [GradientSampler, PopulationSampler])
    def test_what_it_returns_is_stored_as_optunas_samplers_store_it(self, kind: type[Any]) -> None:
        def constraints(trial: FrozenTrial) -> tuple[float, float]:
            return trial.params["x"], np.float64(-1)

        study = create(self.sampler(kind, constraints_func=constraints))
        trial = study.ask()
        x = trial.suggest_float("x", 0.5, 1)
        study.tell(trial, 1.0)
        assert read_constraints(study.trials[0]) == {"0": x, "1": -1.0}

    def test_its_values_steer_the_search(self) -> None:
        def constraints(trial: FrozenTrial) -> list[float]:
            return [trial.params["x"] - 0.05]

        study = create(self.sampler(GradientSampler, constraints_func=constraints))
        for _ in range(2):
            trial = study.ask()
            x = trial.suggest_float("x", -1, 1)
            report_hypergradient(trial, {"x": -1.0})
            if x > 0.05:
                report_hypergradient(trial, {"x": 1.0}, constraint="0")
            study.tell(trial, -x)
        assert outer_steps(study)[1].violation == pytest.approx(0.05)
        assert where(study) == pytest.approx(0.0)

    @needs_optuna_5
    @pytest.mark.parametrize("returned", [np.array([1.0, -2]), [True, False], [np.bool_(True)]])
    def test_what_optunas_samplers_take_is_taken(self, returned: Any) -> None:
        stored = []
        for kind in (GradientSampler, PopulationSampler, optuna.samplers.TPESampler):
            with pytest.warns(FutureWarning, match="constraints_func"):
                study = create(kind(seed=0, constraints_func=lambda trial: returned))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Constraints should be a sequence")
                study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
            assert read_constraints(study.trials[0]) == study.trials[0].constraints
            stored.append(read_constraints(study.trials[0]))
        assert stored[0] == stored[1] == stored[2]

    @pytest.mark.parametrize("returned", [(math.nan,), 3.0, ("a",), np.array(1.0)])
    def test_what_is_no_sequence_of_numbers_is_refused(self, returned: Any) -> None:
        study = create(self.sampler(GradientSampler, constraints_func=lambda trial: returned))
        trial = study.ask()
        with pytest.raises(ValueError, match="what constraints_func returns must"):
            study.tell(trial, 1.0)

    def test_it_must_be_callable(self) -> None:
        with pytest.raises(ValueError, match="constraints_func must be callable, got 3"):
            GradientSampler(constraints_func=3)  # type: ignore[arg-type]


class TestPopulation:
    @pytest.mark.parametrize("seed", range(3))
    def test_feasible_members_are_cloned(self, seed: int) -> None:
        """Selection alone fills the population with them."""

        def objective(trial: optuna.Trial) -> float:
            x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
            constrain(trial, STRIP.value(np.array([x, y])))
            return (x - 0.8) ** 2 + (y - 0.6) ** 2

        study = create(PopulationSampler(seed=seed, population_size=8, burn_in=0))
        study.optimize(objective, n_trials=120)
        numbers = {trial.number for trial in STRIP.feasible(study)}
        assert len(numbers & set(range(96, 120))) >= 18
        assert lineage(study)[-1].trial in numbers

    @pytest.mark.parametrize("seed", range(3))
    def test_members_return_along_the_gradients_of_constraints(self, seed: int) -> None:
        found = []
        for with_gradient in (False, True):
            # Without a surrogate, which would lead clones back from the violations alone.
            arguments = {"population_size": 8, "burn_in": 0}
            study = create(PopulationSampler(seed=seed, mutation="teacher", **arguments))
            study.optimize(
                lambda trial, reported=with_gradient: STRIP.objective(trial, reported), n_trials=120
            )
            found.append(STRIP.feasible(study))
        assert len(found[1]) > 1.5 * len(found[0]) and len(found[1]) > 40
        assert min(trial.value for trial in found[1]) < STRIP.least + 0.1

    def test_the_worst_member_is_the_most_infeasible_one(self) -> None:
        excess = {0: 0.0, 1: 2.0, 2: -1.0, 3: 1.0}  # by member; losses the other way round
        losses = {0: 9.0, 1: 1.0, 2: 8.0, 3: 2.0}
        sampler = PopulationSampler(seed=0, population_size=4, burn_in=0, truncation=0.25)
        study = create(sampler)
        for _ in range(8):
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            constrain(trial, excess[trial.number % 4])
            study.tell(trial, losses[trial.number % 4])
        parents = [trial.user_attrs.get("hg:parent") for trial in study.trials[4:]]
        assert parents == [None, 2, None, None]  # the others continue


class TestElsewhere:
    def test_the_best_so_far_is_feasible(self) -> None:
        study = create()
        for value, excess in ((3.0, -1.0), (1.0, 0.5), (2.0, -1.0)):
            step(study, value, excess=excess)
        (line,) = [
            mark
            for mark in convergence(study).panels[0].marks
            if isinstance(mark, Line) and mark.name == "best so far"
        ]
        assert [*line.y] == [3.0, 2.0, 2.0]

    def test_where_nothing_is_feasible_that_is_said(self) -> None:
        study = create()
        step(study, 3.0, excess=1.0)
        step(study, 2.0, excess=0.5)
        found = summarize(study)
        assert found is not None and "No trial is feasible; trial **1** is closest" in found.text
        with pytest.raises(ValueError, match="no complete trial is feasible"):
            best_schedules(study)
        assert not [m for m in convergence(study).panels[0].marks if isinstance(m, Line)]

    def test_a_trial_that_ended_otherwise_has_no_rank_above_others(self) -> None:
        study = create()
        trial = study.ask()
        trial.suggest_float("x", -1, 1)
        constrain(trial, -1.0)
        study.tell(trial, state=TrialState.FAIL)
        step(study, 3.0, excess=1.0)
        assert study.sampler.chains(study)[0].best_trial == 1
