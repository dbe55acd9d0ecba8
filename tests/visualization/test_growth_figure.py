"""The figure of growth shows what trials report, and says so if they report none."""

import math
from collections.abc import Callable, Iterator, Sequence

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib import pyplot as plt
from optuna.trial import TrialState
from reports.growing import Growth, Result, growing

from optuna_hypergrad import publish, report_hypergradient, visualization
from optuna_hypergrad.algorithms.growth import DOMINATED
from optuna_hypergrad.dashboard.figures import stored_figure
from optuna_hypergrad.reports import StoredDataError
from optuna_hypergrad.visualization import matplotlib as mpl
from optuna_hypergrad.visualization.charts import Line, Panel, Points, colors
from optuna_hypergrad.visualization.figures import growth

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def run(growths: Sequence[Growth | None], state: TrialState | None = None) -> optuna.Study:
    """A study whose trials report these."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for one in growths:
        trial = study.ask()
        trial.suggest_float("lr", 0.0, 1.0)
        report_hypergradient(trial, Result({"lr": 1.0}, one))
        if state != TrialState.RUNNING:
            study.tell(trial, None if state else 0.0, state=state)
    return study


def panel_of(study: optuna.Study) -> Panel:
    """The panel, after both libraries have drawn it."""
    mpl.plot_growth(study).canvas.draw()
    visualization.plot_growth(study).to_json()
    (panel,) = growth(study).panels
    return panel


def lines_of(study: optuna.Study) -> list[Line]:
    """One line for each trial, without the threshold."""
    return [mark for mark in panel_of(study).marks if isinstance(mark, Line)][1:]


def test_a_line_for_each_trial_that_reported_a_growth() -> None:
    study = run([growing(3.0, 50), None, growing(-1.0, 20)])
    first, second = lines_of(study)
    assert (first.x, second.x) == ([*range(50)], [*range(20)])
    assert list(first.y) == pytest.approx(growing(3.0, 50).to_end)
    assert list(second.y) == pytest.approx(growing(-1.0, 20).to_end)
    dominated = (growing(3.0, 50).to_end >= DOMINATED).sum()
    assert first.texts == [f"trial 0: 10^3 over 50 steps, which dominates the first {dominated}"]
    assert second.texts == ["trial 2: 10^0 over 20 steps"]


def test_a_dotted_line_is_the_threshold() -> None:
    panel = panel_of(run([growing(3.0, 50), growing(3.0, 70)]))
    threshold = panel.marks[0]
    assert isinstance(threshold, Line)
    assert (threshold.x, threshold.y, threshold.dash) == ([0, 69], [2.0, 2.0], "dot")
    assert threshold.name == "100-fold: above, growth dominates"
    assert (panel.x.label, panel.x.is_integer) == ("step of training", True)
    assert panel.y.label.startswith("log₁₀ of the growth")


def test_later_trials_are_lighter() -> None:
    study = run([None, *(growing(i) for i in range(5))])
    shades = [line.color for line in lines_of(study)]
    assert shades == [colors.sequential(i / 4) for i in range(5)]
    scale = growth(study).scale
    assert scale is not None
    assert (scale.label, scale.low, scale.high, scale.is_integer) == ("trial", 1, 5, True)
    assert growth(run([growing(1.0)])).scale is None


def test_of_many_trials_some_are_shown_with_the_first_and_the_latest() -> None:
    study = run([growing(float(i), 20) for i in range(40)])
    numbers = [int(line.texts[0].split(":")[0].split()[1]) for line in lines_of(study)]
    assert len(numbers) == 12 and (numbers[0], numbers[-1]) == (0, 39)
    assert growth(study).title == (
        "Growth of the derivatives over the steps of training · 12 of 40 trials"
    )


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL])
def test_trials_in_any_state_are_drawn(state: TrialState) -> None:
    assert len(lines_of(run([growing(3.0), growing(4.0)], state))) == 2


def test_numbers_that_are_not_finite_are_gaps() -> None:
    by_step = np.array([math.inf, math.nan, 2.5, 1.0])
    (line,) = lines_of(run([Growth(by_step, total=math.inf), Growth(by_step * math.inf)]))
    assert list(line.y) == pytest.approx([math.nan, math.nan, 2.5, 1.0], nan_ok=True)
    assert line.texts == ["trial 0: 10^inf over 4 steps"]


def test_a_run_of_one_step_is_a_point() -> None:
    point = panel_of(run([growing(3.0, 1)])).marks[-1]
    assert isinstance(point, Points)
    assert (point.x, point.y) == ([0], [3.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optuna.create_study(), "No trial has reported the growth"),
        (lambda: run([None, None]), "No trial has reported the growth"),
        (lambda: run([growing(math.inf)]), "In no trial"),
        (lambda: run([growing(0.0, 0)]), "In no trial"),
    ],
)
def test_without_growth_the_figure_says_so(make: Callable[[], optuna.Study], message: str) -> None:
    assert message in panel_of(make()).message


def test_a_damaged_growth_is_refused() -> None:
    study = run([growing(3.0)], TrialState.RUNNING)
    trial_id = study.trials[0]._trial_id
    study._storage.set_trial_system_attr(trial_id, "hg:growth_to_end", {"trial": 0})
    with pytest.raises(StoredDataError, match="trial 0: hg:growth_to_end is damaged: steps"):
        growth(study)


def test_a_dashboard_gets_the_figure_where_there_is_a_growth() -> None:
    for study, has_figure in ((run([growing(3.0)] * 20), True), (run([None]), False)):
        publish(study)
        assert bool(stored_figure(study, "hg-growth")) == has_figure
        assert len(stored_figure(study, "hg-growth")) < 30_000
