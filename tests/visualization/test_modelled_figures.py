"""Figures of a Gaussian process show its trials, and which of them is recommended."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import matplotlib
import optuna
import pytest
from matplotlib import pyplot as plt

from optuna_hypergrad import (
    GradientSampler,
    outer_steps,
    recommended,
    report_hypergradient,
    suggest_schedule,
    trial_seed,
    visualization,
)
from optuna_hypergrad.visualization import matplotlib as mpl
from optuna_hypergrad.visualization.charts import Chart, Heat, Line, Points, colors
from optuna_hypergrad.visualization.figures import (
    convergence,
    hypergradients,
    hypervariance,
    schedules,
    step_sizes,
    trajectories,
)

matplotlib.use("Agg")

PRUNED, FAILED = 8, 11


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def objective(trial: optuna.Trial, every: int = 3) -> float:
    """A noisy quadratic function of seven windows and two constants; two trials fail."""
    lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=7)
    momentum = trial.suggest_float("momentum", 0.0, 0.99)
    decay = trial.suggest_float("decay", 1e-5, 1e-1, log=True)
    if trial.number == PRUNED:
        raise optuna.TrialPruned
    if trial.number == FAILED:
        return math.nan
    errors = {name: lr.params[name] - 0.9 + 0.1 * i for i, name in enumerate(lr.names)}
    errors["momentum"] = momentum - 0.5
    log_error = math.log(decay / 1e-3) / 10
    if trial.number % every == 0:
        slopes = {name: 2 * error for name, error in errors.items()}
        report_hypergradient(trial, {**slopes, "decay": log_error / 5 / decay})
    noise = trial_seed(trial) % 1000 / 20_000
    return sum(error**2 for error in errors.values()) + log_error**2 + noise


def run(n_trials: int, function: Callable[[optuna.Trial], float] = objective) -> optuna.Study:
    sampler = GradientSampler(seed=0, strategy="gaussian_process")
    study = optuna.create_study(sampler=sampler)
    study.optimize(function, n_trials=n_trials)
    return study


@cache
def modelled() -> optuna.Study:
    return run(25)


def with_gradients(study: optuna.Study) -> list[int]:
    return [t.number for t in study.trials if "hg:gradient_norm" in t.user_attrs]


@pytest.mark.parametrize("name", visualization.__all__)
def test_every_figure_is_drawn_or_says_why_not(name: str) -> None:
    drawn = getattr(mpl, name)(modelled())
    drawn.canvas.draw()
    assert len(getattr(visualization, name)(modelled()).to_json()) < 50_000


@pytest.mark.parametrize("chart", [step_sizes, hypervariance])
def test_figures_of_outer_steps_name_the_strategy_that_has_them(chart: Any) -> None:
    (panel,) = chart(modelled()).panels
    assert "strategy='sign_descent'" in panel.message and not panel.marks


@pytest.mark.parametrize("chart", [schedules, hypergradients, step_sizes, convergence])
def test_before_a_trial_has_finished_the_figures_say_so(chart: Callable[..., Chart]) -> None:
    study = run(0)
    study.ask().suggest_float("x", 0, 1)
    assert chart(study).panels[0].message.endswith("yet.")


class TestSchedules:
    def test_a_line_for_each_trial_and_the_recommended_one_is_black(self) -> None:
        chart, study = schedules(modelled()), modelled()
        lr, momentum, decay = chart.panels
        assert chart.title == "Schedules by trial"
        assert [panel.title for panel in chart.panels] == ["lr", "momentum", "decay"]
        assert len(lr.marks) == len(study.trials)
        best = lr.marks[-1]
        wanted = recommended(study)
        assert (best.name, best.color) == ("recommended", colors.BLACK)
        assert [*best.y[:-1]] == [wanted.params[f"lr_{i}"] for i in range(7)]
        assert best.texts == [f"trial {wanted.number}: value {wanted.value:.4g}"]
        assert {line.name: line.dash for line in lr.marks} == {
            "trial": "solid", "pruned": "dot", "failed": "dot", "recommended": "solid",
        }  # fmt: skip
        assert decay.y.is_log and decay.x.label == "trial"
        assert not any(isinstance(mark, Line) for mark in momentum.marks)  # trials are no path

    def test_points_lie_at_their_trial(self) -> None:
        marks = schedules(modelled(), ["momentum"]).panels[0].marks
        drawn = {x: y for mark in marks for x, y in zip(mark.x, mark.y, strict=True)}
        assert drawn == {t.number: t.params["momentum"] for t in modelled().trials}
        named = {mark.name: [*mark.x] for mark in marks}
        assert (named["pruned"], named["failed"]) == ([PRUNED], [FAILED])
        assert named["recommended"] == [recommended(modelled()).number]

    def test_unknown_names_and_chains_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"names must be one of .lr., .*got 'b'"):
            schedules(modelled(), ["b"])
        with pytest.raises(ValueError, match="chain must be one of 0, got 1"):
            schedules(modelled(), chain=1)


class TestHypergradients:
    def test_a_point_for_each_trial_with_a_hypergradient(self) -> None:
        study = modelled()
        chart = hypergradients(study)
        lr = chart.panels[0]
        assert chart.title == "Hypergradients by trial" and lr.x.label == "trial"
        *windows, best = [mark for mark in lr.marks if isinstance(mark, Points)]
        assert len(windows) == 7
        assert with_gradients(study)
        assert all([*mark.x] == with_gradients(study) for mark in windows)
        assert (best.name, best.symbol, [*best.x]) == (
            "recommended", "star", [recommended(study).number],
        )  # fmt: skip

    def test_a_trial_that_exploded_does_not_flatten_the_others(self) -> None:
        def exploding(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", 0, 1)
            report_hypergradient(trial, {"x": 1e22 if trial.number == 3 else x - 0.5})
            return 1e32 if trial.number == 3 else 1 + (x - 0.5) ** 2

        study = run(8, exploding)
        panel = hypergradients(study).panels[0]
        (points,) = (m for m in panel.marks if isinstance(m, Points) and m.name is None)
        assert points.y[3] == max(points.y) < 10 and "1e+22" in points.texts[3]
        assert max(map(abs, points.y[:3])) > 0.2
        (points,) = (
            m for m in convergence(study).panels[0].marks if m.name == "with hypergradient"
        )
        assert 1e3 < max(points.y) < 1e5 and "1e+32" in points.texts[3]

    def test_fine_schedules_are_cells(self) -> None:
        def fine(trial: optuna.Trial) -> float:
            lr = suggest_schedule(trial, "lr", -1, 1, windows=16)
            report_hypergradient(trial, {n: v - 0.5 for n, v in lr.params.items()})
            return sum((v - 0.5) ** 2 for v in lr.values)

        heat, star = hypergradients(run(4, fine)).panels[0].marks
        assert isinstance(heat, Heat) and isinstance(star, Points)

    def test_without_any_the_figure_says_so(self) -> None:
        (panel,) = hypergradients(run(3, lambda trial: trial.suggest_float("x", 0, 1))).panels
        assert panel.message == "No hyperparameter of the search has a hypergradient yet."


def test_convergence_tells_trials_with_hypergradients_and_the_recommended_one() -> None:
    study = modelled()
    marks = convergence(study).panels[0].marks
    named = {mark.name: [*mark.x] for mark in marks if isinstance(mark, Points)}
    assert named["with hypergradient"] == with_gradients(study)
    assert named["recommended"] == [recommended(study).number]
    assert (named["pruned"], named["failed"]) == ([PRUNED], [FAILED])
    others = {*range(25)} - {PRUNED, FAILED, *with_gradients(study)}
    assert {*named["trial"]} == others


def test_trajectories_are_points() -> None:
    marks = trajectories(modelled(), "momentum", "decay").panels[0].marks
    assert {mark.name for mark in marks} == {"trial", "pruned or failed", "recommended"}
    assert sum(len(mark.x) for mark in marks) == 25 + 1


def test_without_a_feasible_trial_nothing_is_recommended() -> None:
    def pruned(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        raise optuna.TrialPruned

    study = run(3, pruned)
    marks = schedules(study).panels[0].marks
    assert {mark.name for mark in marks} == {"pruned"}


def test_a_study_that_went_on_by_sign_descent_shows_its_outer_steps() -> None:
    study = run(4)
    assert schedules(study).title == "Schedules by trial"
    study.sampler = GradientSampler(seed=0, strategy="sign_descent")
    study.optimize(lambda trial: objective(trial, every=1), n_trials=2)
    assert schedules(study).title == "Schedules by outer step"
    assert len(schedules(study).panels[0].marks) == len(outer_steps(study)) == 2
    study.sampler = GradientSampler(seed=0, strategy="gaussian_process")
    study.optimize(objective, n_trials=1)
    assert len(schedules(study).panels[0].marks) == 7  # the process knows all of them


def test_thousands_of_trials_make_a_small_figure() -> None:
    study, trials = optuna.create_study(), []
    space = {f"x_{i}": optuna.distributions.FloatDistribution(-1, 1) for i in range(4)}
    for number in range(3_000):
        proposal = {"trial": number, "seed": 0, "wants_hypergradient": 1}
        slopes = {name: math.sin(number * (i + 1.3)) for i, name in enumerate(space)}
        one = optuna.trial.create_trial(
            value=2 + math.sin(number),
            params={name: math.sin(number * (i + 0.7)) for i, name in enumerate(space)},
            distributions=dict(space),
            system_attrs={
                "hg:gradient": {"trial": number, "values": slopes},
                "hg:proposal": proposal,
            },
        )
        trials.append(one)
    study.add_trials(trials)
    for chart in (schedules, hypergradients, convergence, trajectories):
        name = f"plot_{chart.__name__}"
        assert 5_000 < len(getattr(visualization, name)(study).to_json()) < 300_000
    assert "of 3,000 trials" in schedules(study).title
