"""Figures of searches show what the outer steps hold."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import matplotlib
import optuna
import pytest
from matplotlib import pyplot as plt
from optuna.trial import TrialState

from optuna_hypergrad import (
    GradientSampler,
    PopulationSampler,
    outer_steps,
    report_hypergradient,
    suggest_schedule,
    visualization,
)
from optuna_hypergrad.visualization import matplotlib as mpl
from optuna_hypergrad.visualization import plotly
from optuna_hypergrad.visualization.charts import Band, Bars, Chart, Heat, Line, Points, colors
from optuna_hypergrad.visualization.charts.axes import factor_ticks
from optuna_hypergrad.visualization.figures import (
    convergence,
    growth,
    hypergradients,
    hypervariance,
    schedules,
    step_sizes,
    trajectories,
)
from samplers.test_constraints import constrain

pytestmark = pytest.mark.usefixtures("sign_descent")

matplotlib.use("Agg")

CHARTS: list[Callable[..., Chart]] = [
    schedules,
    hypergradients,
    step_sizes,
    convergence,
    hypervariance,
    growth,
]
OF_SEARCHES = [chart for chart in CHARTS if chart not in (convergence, growth)]
WINDOWS = {"lr": [0.8, 0.5, 0.1], "decay": [0.02]}


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def objective(trial: optuna.Trial, noise: float = 0.0) -> float:
    """A quadratic function of a schedule and a logarithmic parameter, with a choice."""
    lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
    decay = trial.suggest_float("decay", 1e-4, 1.0, log=True)
    trial.suggest_categorical("kind", ["a", "b"])
    error = noise * (-1) ** trial.number
    errors = [value - best + error for value, best in zip(lr.values, WINDOWS["lr"], strict=True)]
    gradient = dict(zip(lr.names, errors, strict=True))
    gradient["decay"] = math.log(decay / 0.02) / decay
    if lr.values[0] > 0.9:
        gradient["lr_1"] = math.nan
    report_hypergradient(trial, gradient)
    return sum(e * e for e in errors) / 2 + math.log(decay / 0.02) ** 2 / 2


def run(n_trials: int, function: Any = objective, **options: Any) -> optuna.Study:
    direction, catch = options.pop("direction", "minimize"), options.pop("catch", ())
    sampler = GradientSampler(seed=0, **options)
    study = optuna.create_study(sampler=sampler, direction=direction)
    study.optimize(function, n_trials=n_trials, catch=catch)
    return study


@cache
def clean() -> optuna.Study:
    """One search; big steps, so that some points are rejected or diverge."""
    return run(14, step_size={"lr": 0.35, "decay": 2.0})


@cache
def noisy() -> optuna.Study:
    return run(12, lambda trial: objective(trial, 0.3), n_replicates=2)


def both(chart: Callable[..., Chart], study: optuna.Study, **arguments: Any) -> int:
    """Draw with both libraries, and return the size of the figure as JSON."""
    name = f"plot_{chart.__name__}"
    drawn = getattr(mpl, name)(study, **arguments)
    drawn.canvas.draw()
    return len(getattr(visualization, name)(study, **arguments).to_json())


def message_of(chart: Chart) -> str:
    (panel,) = chart.panels
    return panel.message


@pytest.mark.parametrize("chart", CHARTS)
class TestAnyStudyCanBeDrawn:
    @pytest.mark.parametrize("study", [clean, noisy])
    def test_of_a_search(self, chart: Any, study: Any) -> None:
        assert both(chart, study()) < 100_000

    def test_without_finished_trials(self, chart: Any) -> None:
        study = run(0)
        assert "yet" in message_of(chart(study))
        both(chart, study)
        study.ask().suggest_float("x", 0, 1)
        assert "yet" in message_of(chart(study))

    def test_of_one_trial_while_the_next_runs(self, chart: Any) -> None:
        study = run(1)
        study.ask().suggest_float("lr_0", 0, 1)
        both(chart, study)

    @pytest.mark.parametrize(
        "sampler", [optuna.samplers.RandomSampler(seed=0), PopulationSampler(seed=0)], ids=type
    )
    def test_of_another_sampler(self, chart: Any, sampler: Any) -> None:
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=8)
        assert bool(message_of(chart(study))) == (chart is not convergence)
        both(chart, study)

    @pytest.mark.parametrize("end", ["nan", "pruned", "failed", "NaN hypergradients"])
    def test_where_all_diverged(self, chart: Any, end: str) -> None:
        def diverging(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", -1, 1)
            if end == "pruned":
                raise optuna.TrialPruned
            if end == "failed":
                raise OSError
            report_hypergradient(trial, {"x": 1.0 if end == "nan" else math.nan})
            return math.nan if end == "nan" else x

        both(chart, run(6, diverging, catch=OSError))

    def test_that_maximizes(self, chart: Any) -> None:
        study = run(8, lambda trial: -objective(trial), direction="maximize")
        both(chart, study)
        best = [mark for mark in schedules(study).panels[0].marks if mark.color == colors.BLACK]
        assert best[0].texts[0].startswith(f"step {study.best_trial.number} ")

    def test_with_several_objectives_is_refused(self, chart: Any) -> None:
        study = optuna.create_study(directions=["minimize", "minimize"])
        with pytest.raises(ValueError, match=r"study: .* several"):
            chart(study)


class TestSchedules:
    def test_a_line_for_each_step_and_points_for_single_values(self) -> None:
        steps = outer_steps(clean())
        lr, decay, kind = schedules(clean()).panels
        assert [panel.title for panel in (lr, decay, kind)] == ["lr", "decay", "kind"]
        assert (lr.y.is_log, decay.y.is_log, kind.y.ticks) == (False, True, {0.0: "a", 1.0: "b"})
        ran = {tuple(step.params[f"lr_{i}"] for i in (0, 1, 2, 2)) for step in steps}
        assert len(lr.marks) == len(steps)
        assert {tuple(line.y) for line in lr.marks} == ran
        assert all(line.is_step and line.x == [0, 1 / 3, 2 / 3, 1] for line in lr.marks)
        line, *points = decay.marks
        assert line.y == [step.params["decay"] for step in steps]
        assert sum(len(one.x) for one in points) == len(steps)

    def test_lines_show_the_status_of_their_step(self) -> None:
        steps = outer_steps(clean())
        verdicts = {step.verdict for step in steps}
        assert {"accepted", "rejected", "diverged"} <= verdicts
        marks = schedules(clean()).panels[0].marks
        for line in marks:
            step = next(step for step in steps if line.texts[0].startswith(f"step {step.step} "))
            left = step.verdict in ("rejected", "diverged")
            assert (line.dash, line.opacity < 1) == (("dot", True) if left else ("solid", False))
        assert (marks[-1].name, marks[-1].color) == ("best", colors.BLACK)
        assert f"trial {clean().best_trial.number})" in marks[-1].texts[0]

    def test_later_steps_are_lighter(self) -> None:
        lines = schedules(clean()).panels[0].marks[:-1]
        greens = [int(line.color[3:5], 16) for line in lines]
        assert greens == sorted(greens)
        scale = schedules(clean()).scale
        assert scale is not None
        assert (scale.low, scale.high) == (0, len(outer_steps(clean())) - 1)

    @pytest.mark.parametrize("form", ["linear", "cosine"])
    @pytest.mark.parametrize("log", [True, False])
    def test_schedules_move_between_knots_as_in_training(self, form: Any, log: bool) -> None:
        def knots(trial: optuna.Trial) -> float:
            lr = suggest_schedule(trial, "lr", 0.01, 1, windows=2, form=form, log=log)
            report_hypergradient(trial, dict(zip(lr.names, (1.0, -1.0, 1.0), strict=True)))
            return sum(lr.values)

        line = schedules(run(3, knots)).panels[0].marks[0]
        lr = optuna.trial.FixedTrial(run(3, knots).trials[0].params)
        wanted = suggest_schedule(lr, "lr", 0.01, 1, windows=2, form=form, log=log)
        n = len(line.x) - 1
        assert not line.is_step
        assert line.y == pytest.approx([*wanted.over(n), wanted.values[-1]])

    def test_chosen_names_in_their_order(self) -> None:
        panels = schedules(clean(), names=["decay", "lr"]).panels
        assert [panel.title for panel in panels] == ["decay", "lr"]

    def test_many_hyperparameters_are_counted(self) -> None:
        def many(trial: optuna.Trial) -> float:
            values = {f"x{i}": trial.suggest_float(f"x{i}", 0, 1) for i in range(15)}
            report_hypergradient(trial, dict.fromkeys(values, 1.0))
            return sum(values.values())

        study = run(2, many)
        chart = schedules(study)
        assert (len(chart.panels), chart.columns) == (12, 3)
        assert "12 of 15 hyperparameters" in chart.title
        assert len(schedules(study, names=[f"x{i}" for i in range(15)]).panels) == 15

    def test_of_several_chains_the_best_is_shown_and_named(self) -> None:
        study = run(15, n_chains=3)
        sampler = study.sampler
        assert isinstance(sampler, GradientSampler)
        best = sampler.chains(study)[0].chain
        assert f"chain {best} (3 in all)" in schedules(study).title
        other = (best + 1) % 3
        assert f"chain {other} (3 in all)" in schedules(study, chain=other).title


class TestHypergradients:
    def test_a_line_for_each_window(self) -> None:
        steps = outer_steps(noisy())
        lr, decay = hypergradients(noisy()).panels
        lines = [mark for mark in lr.marks if isinstance(mark, Line)][1:]  # without zero
        texts = [[f"lr_{i}: {step.gradient[f'lr_{i}']:.3g}" for step in steps] for i in range(3)]
        assert [list(line.texts) for line in lines] == texts
        assert len({line.color for line in lines}) == 3
        assert (lr.y.label, decay.title) == ("∂ loss / ∂ lr", "decay")

    def test_a_band_is_the_range_of_replicates(self) -> None:
        steps = outer_steps(noisy())
        band, *_ = [m for m in hypergradients(noisy()).panels[0].marks if isinstance(m, Band)]
        reports = [[report["lr_0"] for report in step.reports] for step in steps]
        assert band.low == pytest.approx([min(one) for one in reports])
        assert band.high == pytest.approx([max(one) for one in reports])

    def test_flips_and_steps_that_were_not_accepted_are_marked(self) -> None:
        steps = outer_steps(clean())
        marks = hypergradients(clean()).panels[0].marks
        points = [mark for mark in marks if isinstance(mark, Points)]
        flips = [x for mark in points if mark.symbol == "open circle" for x in mark.x]
        left = {x for mark in points if mark.symbol == "cross" for x in mark.x}
        wanted = [s.step for s in steps for name in s.flipped if name.startswith("lr")]
        assert sorted(flips) == sorted(wanted)
        assert left == {s.step for s in steps if s.verdict in ("rejected", "diverged")}

    def test_of_very_different_sizes_the_axis_is_logarithmic_on_both_sides(self) -> None:
        sizes = [-100.0, -1.0, -1.0, 0.01, -0.01, 0.1]

        def steep(trial: optuna.Trial) -> float:
            trial.suggest_float("x", 0, 1)
            report_hypergradient(trial, {"x": sizes[trial.number]})
            return -trial.number

        (panel,) = hypergradients(run(6, steep)).panels
        assert panel.y.ticks is not None
        assert {"−100", "0", "100"} <= {*panel.y.ticks.values()}
        line = panel.marks[1]
        position = {text: place for place, text in panel.y.ticks.items()}
        assert line.y[0] == pytest.approx(position["−100"])

    def test_fine_schedules_are_cells(self) -> None:
        def fine(trial: optuna.Trial) -> float:
            lr = suggest_schedule(trial, "lr", -1, 1, windows="auto")
            report_hypergradient(trial, {n: v - 0.5 for n, v in lr.params.items()})
            return sum((v - 0.5) ** 2 for v in lr.values)

        study = run(5, fine)
        chart = hypergradients(study)
        (heat,) = chart.panels[0].marks
        assert isinstance(heat, Heat)
        assert (len(heat.value), len(heat.value[0])) == (64, 5)
        assert (len(heat.x), len(heat.y), heat.y[0], heat.y[-1]) == (6, 65, 0, 1)
        assert heat.value[0][0] == -1  # the largest
        assert chart.scale is not None
        assert chart.scale.is_diverging
        assert "12 of 64 windows" in step_sizes(study).panels[0].title
        for one in (hypergradients, step_sizes, schedules):
            both(one, study)


def test_step_sizes_are_those_of_the_outer_steps() -> None:
    steps = outer_steps(clean())
    lr, decay = step_sizes(clean()).panels
    lines = [mark for mark in lr.marks if isinstance(mark, Line)]
    wanted = [[step.step_size[f"lr_{i}"] for step in steps] for i in range(3)]
    assert [list(line.y[:-1]) for line in lines] == wanted  # each holds up to the next step
    assert lr.y.is_log
    assert (lr.y.label, decay.y.label) == ("γ, in units of lr", "γ, as a factor")
    (line,) = (mark for mark in decay.marks if isinstance(mark, Line))
    assert decay.y.ticks is not None and len(decay.y.ticks) > 1
    for position, label in decay.y.ticks.items():  # γ = 0.405 multiplies by e^0.405
        assert label == f"×{math.exp(position):.6g}"
    assert min(decay.y.range) < min(line.y) < max(line.y) < max(decay.y.range)
    crosses = [mark for mark in (*lr.marks, *decay.marks) if isinstance(mark, Points)]
    left = [step.step for step in steps if step.verdict in ("rejected", "diverged")]
    assert left and {cross.name for cross in crosses} == {"rejected or diverged"}
    assert [[*cross.x] for cross in crosses] == [left] * 4


@pytest.mark.parametrize("chart", OF_SEARCHES)
class TestArguments:
    def test_empty_names_are_refused(self, chart: Any) -> None:
        for study in (clean(), optuna.create_study()):
            with pytest.raises(ValueError, match="names must hold at least one name"):
                chart(study, [])

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"names": 3}, "names must be a sequence of names"),
            ({"names": "lr"}, "names must be a sequence of names"),
            ({"chain": -1}, "chain must be an integer of at least 0"),
        ],
    )
    def test_wrong_types_are_refused_even_without_trials(
        self, chart: Any, arguments: Any, error: str
    ) -> None:
        name = f"plot_{chart.__name__}"
        with pytest.raises(ValueError, match=error):
            getattr(visualization, name)(optuna.create_study(), **arguments)

    def test_unknown_names_and_chains_are_refused(self, chart: Any) -> None:
        with pytest.raises(ValueError, match=r"names must be one of .lr., .*got 'b'"):
            chart(clean(), ["lr", "b"])
        with pytest.raises(ValueError, match="chain must be one of 0, got 7"):
            chart(clean(), chain=7)


def test_without_hypergradients_the_figures_say_so() -> None:
    def pruned(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        raise optuna.TrialPruned

    study = run(3, pruned)
    for chart in (hypergradients, step_sizes, hypervariance):
        assert (
            message_of(chart(study)) == "No hyperparameter of the search has a hypergradient yet."
        )
    assert not schedules(study).panels[0].message


def test_integers_have_ticks_at_integers() -> None:
    def layers(trial: optuna.Trial) -> float:
        n = trial.suggest_int("layers", 1, 20)
        report_hypergradient(trial, {"layers": 1.0})
        return n

    (panel,) = schedules(run(3, layers)).panels
    assert (panel.y.is_integer, panel.y.label) == (True, "")


def test_a_scale_belongs_to_the_panels_that_use_it() -> None:
    for chart, scaled in ((hypergradients, 1), (step_sizes, 1), (schedules, 3)):
        panels = chart(clean()).panels
        has_scale = [panel.scale is not None for panel in panels]
        assert has_scale == [i < scaled for i in range(len(panels))]
        alone = Chart("", panels[1:])
        assert (alone.scale is not None) == (scaled > 1)


class TestConvergence:
    def test_the_outcome_of_each_trial(self) -> None:
        verdicts = {n: step.verdict for step in outer_steps(clean()) for n in step.trials}
        (panel,) = convergence(clean()).panels
        drawn = {m.name: [*m.x] for m in panel.marks if isinstance(m, Points)}
        assert {x: name for name, at in drawn.items() for x in at} == verdicts

    def test_the_best_so_far_is_a_stair_to_the_best_value(self) -> None:
        line = next(m for m in convergence(clean()).panels[0].marks if m.name == "best so far")
        assert line.is_step
        assert list(line.y[:-1]) == sorted(line.y[:-1], reverse=True)
        assert (line.y[-1], line.x[-2]) == (clean().best_value, clean().best_trial.number)

    def test_trials_without_a_value_are_in_a_strip_that_says_so(self) -> None:
        study = optuna.create_study()
        for state in (TrialState.PRUNED, TrialState.FAIL):
            study.tell(study.ask(), state=state)
        for value in (1.0, 2.0, math.inf):
            study.tell(study.ask(), value)
        study.ask()
        study.enqueue_trial({})
        (panel,) = convergence(study).panels
        points = {m.name: m for m in panel.marks if isinstance(m, Points)}
        assert [(n, [*points[n].x]) for n in ("pruned", "failed", "diverged", "running")] == [
            ("pruned", [0]),
            ("failed", [1]),
            ("diverged", [4]),
            ("running", [5]),
        ]
        assert [*points["trial"].y] == [1.0, 2.0]
        assert not panel.y.is_log
        assert panel.y.ticks is not None
        values = [place for place, label in panel.y.ticks.items() if label != "no value"]
        (strip,) = panel.y.ticks.keys() - values
        for fate in ("pruned", "failed", "diverged", "running"):
            assert [*points[fate].y] == [strip] and points[fate].texts[0].endswith("no value")
        (edge,) = (mark.y[0] for mark in panel.marks if isinstance(mark, Line) and not mark.name)
        assert max(2.0, *values) < edge < strip < panel.y.range[1]

    @pytest.mark.parametrize("worst", [2.0, 200.0])
    def test_without_failed_trials_there_is_no_strip(self, worst: float) -> None:
        study = optuna.create_study()
        for value in (1.0, worst):
            study.tell(study.ask(), value)
        assert convergence(study).panels[0].y.ticks is None
        study.tell(study.ask(), state=TrialState.FAIL)
        assert "no value" in convergence(study).panels[0].y.ticks.values()
        both(convergence, study)

    def test_retrained_is_a_line_and_a_list_of_values_a_band(self) -> None:
        one = convergence(clean(), retrained=0.5).panels[0].marks[0]
        assert (one.name, [*one.y]) == ("retrained best", [0.5, 0.5])
        band, line = convergence(clean(), retrained=[0.4, 0.6]).panels[0].marks[:2]
        assert (band.low, band.high) == ([0.4, 0.4], [0.6, 0.6])
        assert line.y == pytest.approx([0.5, 0.5])

    def test_infeasible_trials_are_marked(self) -> None:
        def bounded(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", -1, 1)
            constrain(trial, x - 0.25)
            report_hypergradient(trial, {"x": 2 * (x - 0.8)})
            return (x - 0.8) ** 2

        study = run(8, bounded)
        (panel,) = convergence(study).panels
        points = {m.name: m for m in panel.marks if isinstance(m, Points)}
        wanted = [t.number for t in study.trials if t.params["x"] > 0.25]
        assert wanted and [*points["infeasible"].x] == wanted
        for number, text in zip(wanted, points["infeasible"].texts, strict=True):
            x = study.trials[number].params["x"]
            assert f"infeasible by {x - 0.25:.3g}, " in text
        others = [n for name, m in points.items() if name != "infeasible" for n in m.x]
        assert sorted(others) == [t.number for t in study.trials if t.params["x"] <= 0.25]


def test_pruned_or_failed_steps_are_not_shown_as_diverged() -> None:
    def failing(trial: optuna.Trial) -> float:
        x, y = (trial.suggest_float(name, -1, 1) for name in "xy")
        is_nan = trial.number == 5
        report_hypergradient(trial, dict.fromkeys("xy", math.nan if is_nan else 1.0))
        if trial.number == 2:
            raise optuna.TrialPruned
        return math.nan if is_nan else x + y

    study = run(7, failing)
    assert [s.step for s in outer_steps(study) if s.status == "pruned"] == [2]
    assert [s.step for s in outer_steps(study) if s.status == "diverged"] == [5]
    for panel in schedules(study).panels:
        named = {m.name: [*m.x] for m in panel.marks if isinstance(m, Points)}
        assert (named["pruned"], named["diverged"]) == ([2], [5])
    for chart in (step_sizes, trajectories):
        marks = [m for panel in chart(study).panels for m in panel.marks]
        assert {m.name for m in marks if m.name and " or " in m.name} == {"diverged or pruned"}
    (panel,) = convergence(study).panels
    named = {m.name: [*m.x] for m in panel.marks if isinstance(m, Points)}
    assert (named["pruned"], named["diverged"]) == ([2], [5])


def test_a_replicate_that_reported_nan_has_diverged_even_in_an_accepted_step() -> None:
    def torn(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        is_nan = trial.number == 1
        report_hypergradient(trial, {"x": math.nan if is_nan else 1.0})
        return math.nan if is_nan else x

    study = run(3, torn, n_replicates=3)
    assert [step.verdict for step in outer_steps(study)] == ["accepted"]
    assert study.trials[1].state == TrialState.FAIL
    (panel,) = convergence(study).panels
    named = {m.name: [*m.x] for m in panel.marks if isinstance(m, Points)}
    assert named == {"accepted": [0, 2], "diverged": [1]}


@pytest.mark.parametrize("ends", [(1e-30, 1e-20), (1e-9, 1e-2), (1e-12, 1.0), (0.1, 30.0)])
def test_no_factor_other_than_one_is_written_as_one(ends: tuple[float, float]) -> None:
    ticks = factor_ticks(*ends)
    assert len({*ticks.values()}) == len(ticks) > 1
    assert "×1" not in ticks.values()
    assert all(0.99 * ends[0] <= place <= 1.01 * ends[1] for place in ticks)


class TestHypervariance:
    def test_bars_for_each_window(self) -> None:
        top, low = hypervariance(noisy()).panels
        assert [bars.name for bars in top.marks] == ["lr", "decay"]
        lr = top.marks[0]
        assert isinstance(lr, Bars)
        ratios = []
        for step in outer_steps(noisy()):
            a, b = (report["lr_0"] for report in step.reports)
            ratios.append(abs(a - b) / math.sqrt(2) / abs(a + b) * 2)
        ratios.sort()
        assert lr.height[0] == pytest.approx((ratios[2] + ratios[3]) / 2)
        assert [*low.marks[1].height] == [0.0]  # nothing perturbs the decay
        assert low.y.range == (0, 0.5)

    def test_without_replicates_it_names_the_argument(self) -> None:
        assert "n_replicates" in message_of(hypervariance(clean()))

    def test_a_single_finite_replicate_is_not_enough(self) -> None:
        def half(trial: optuna.Trial) -> float:
            trial.suggest_float("x", 0, 1)
            report_hypergradient(trial, {"x": math.nan if trial.number % 2 else 1.0})
            return 1.0

        assert "n_replicates" in message_of(hypervariance(run(4, half, n_replicates=2)))

    def test_an_infinite_hypervariance_has_no_bar(self) -> None:
        def torn(trial: optuna.Trial) -> float:
            trial.suggest_float("x", 0, 1)
            report_hypergradient(trial, {"x": (-1.0) ** trial.number})
            return 1.0

        study = run(2, torn, n_replicates=2)
        top, low = hypervariance(study).panels
        assert math.isnan(top.marks[0].height[0])
        assert [*low.marks[0].height] == [0.5]
        both(hypervariance, study)


@cache
def large() -> optuna.Study:
    """Ten thousand trials of a search that does not converge, with two replicates."""
    study, trials = optuna.create_study(), []
    space = {f"x_{i}": optuna.distributions.FloatDistribution(-1, 1) for i in range(4)}
    by_step = {str(step): math.sin(step) for step in range(100)}
    growing = {"steps": 100, "dominated": 0, "run": {"total": 1.0, "damped": 0.0}, "trust": {}}
    rule = {"safeguard": None, "start": {}, "step_size": {}, "n_replicates": 2, "tolerance": 0.0}
    for number in range(10_000):
        step = number // 2
        claim = {"trial": number, "chain": 0, "step": step, "seed": 0, "agreement": {}}
        claim |= {"used": [2 * step - 2, 2 * step - 1] if step else [], "rule": rule}
        noise = {name: math.sin(number * (i + 1.3)) for i, name in enumerate(space)}
        one = optuna.trial.create_trial(
            value=2 + math.sin(number),
            params={name: math.sin(step * (i + 0.7)) for i, name in enumerate(space)},
            distributions=dict(space),
            system_attrs={
                "hg:gradient": {"trial": number, "values": noise},
                "hg:claim": {**claim, "start": None},
                "hg:growth_to_end": {**growing, "trial": number, "to_end": by_step},
            },
        )
        trials.append(one)
    study.add_trials(trials)
    return study


@pytest.mark.parametrize("function", CHARTS)
@pytest.mark.slow
def test_ten_thousand_trials_make_a_small_figure(function: Any) -> None:
    chart = function(large())
    assert 5_000 < len(plotly.draw(chart).to_json()) < 300_000
    assert all(panel.marks for panel in chart.panels)


def test_a_selection_of_steps_is_counted_and_has_the_best() -> None:
    chart = schedules(large())
    assert "of 5,000 outer steps" in chart.title
    stars = [m for m in chart.panels[0].marks if isinstance(m, Points) and m.name == "best"]
    values = [trial.value for trial in large().get_trials(deepcopy=False)]
    means = [(values[i] + values[i + 1]) / 2 for i in range(0, len(values), 2)]
    assert [*stars[0].x] == [means.index(min(means))]
