"""Figures of populations: the data of the charts, and that both libraries draw them."""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
import pytest
from matplotlib import pyplot as plt

from optuna_hypergrad import GradientSampler, outer_steps, report_hypergradient, visualization
from optuna_hypergrad import lineage as lineage_of
from optuna_hypergrad.visualization import matplotlib as mpl
from optuna_hypergrad.visualization.charts import Chart, Line, Points, Surface, colors
from optuna_hypergrad.visualization.charts.genealogy import Genealogy
from optuna_hypergrad.visualization.figures import lineage, mutations, population, trajectories
from samplers.populations import bowl, create, run, silent
from visualization.stored_populations import large, segment, study_of, trial

pytestmark = pytest.mark.usefixtures("sign_descent")

CHARTS: list[Callable[..., Chart]] = [lineage, population, mutations, trajectories]
NAMES = [f"plot_{chart.__name__}" for chart in CHARTS]


def small(direction: str = "minimize") -> optuna.Study:
    """Two members; member 1 is replaced by a clone of 0; then one fails and one explores.

    ======  ======  ==========  =======  ===========  =====
    trial   member  generation  parent   dropout      value
    ======  ======  ==========  =======  ===========  =====
    0       0       0                    0.5 → 0.4    3
    1       1       0                    0.9          4
    2       0       1           0        0.4          2
    3       1       1           0 clone  0.48         1
    4       0       2           2        0.4          failed
    5               2           3 clone  0.24         5
    ======  ======  ==========  =======  ===========  =====
    """

    def at(dropout: float, lr: float = 0.01) -> dict[str, Any]:
        return {"dropout": dropout, "lr": lr, "kind": "sgd"}

    cloned = {"values": {"dropout": 0.48, "lr": 0.01}, "queried": {"dropout": 0.4}}
    explored: dict[str, Any] = {"resampled": ("dropout",), "before": {"dropout": 0.48}}
    explored |= {"values": {"dropout": 0.24, "lr": 0.01}}
    return study_of(
        [
            trial(segment(0, 0, 0), 3.0, at(0.5), refined={"dropout": 0.4}),
            trial(segment(1, 1, 0), 4.0, at(0.9)),
            trial(segment(2, 0, 1, parent=0, age=1, values={"dropout": 0.4}), 2.0, at(0.4)),
            trial(segment(3, 1, 1, parent=0, **cloned), 1.0, at(0.48)),
            trial(segment(4, 0, 2, parent=2, age=2), None, at(0.4)),
            trial(segment(5, None, 2, parent=3, **explored), 5.0, at(0.24)),
        ],
        direction,
    )


def of(chart: Chart, kind: type, name: str | None, panel: int = 0) -> Any:
    """The one mark of a kind and name."""
    (mark,) = (m for m in chart.panels[panel].marks if type(m) is kind and m.name == name)
    return mark


def at(mark: Any) -> list[tuple[float, float] | None]:
    """Points of a mark, None where a line has a gap."""
    pairs = zip(mark.x, mark.y, strict=True)
    return [None if math.isnan(x) else (x, pytest.approx(y)) for x, y in pairs]


class TestLineage:
    def test_lines_lead_from_parents_to_children(self) -> None:
        chart = lineage(small())
        assert at(of(chart, Line, "lineage of the best")) == [(0, 0), (1, 1)]
        assert at(of(chart, Line, "survivors and their ancestors")) == [(0, 0), (1, 0)]
        explorer, failed = [(1, 1), (2, 3)], [(1, 0), (2, 0)]
        assert at(of(chart, Line, "died out")) == [*explorer, None, *failed]

    def test_births_clones_failures_and_the_best_are_marked(self) -> None:
        chart = lineage(small())
        assert at(of(chart, Points, "birth")) == [(0, 0), (0, 1)]
        assert at(of(chart, Points, "clone, mutated")) == [(1, 1), (2, 3)]
        assert at(of(chart, Points, "pruned or failed")) == [(2, 0)]
        assert at(of(chart, Points, "best")) == [(1, 1)]
        assert chart.panels[0].y.ticks == {0: "0", 1: "1", 3: "explorers"}
        (first, _) = of(chart, Points, "clone, mutated").texts
        assert first == (
            "trial 3: member 1, generation 1, 1, clone of trial 0\ndropout 0.4 → 0.48 (weight 1.2)"
        )

    def test_clones_say_how_each_kind_of_value_was_mutated(self) -> None:
        """From 1/4 of a logarithmic range to 3/4: the weight is 3, the value is 100 times it."""
        began = {"lr": 0.001, "layers": 2, "kind": "sgd", "dropout": 0.5}
        cloned = {"lr": 0.1, "layers": 3, "kind": "adam", "dropout": 0.25}
        values = {"lr": 0.1, "layers": 3.0, "kind": 1.0, "dropout": 0.25}
        more: dict[str, Any] = {"queried": {"lr": 0.25}, "resampled": ("kind", "dropout")}
        origins = {"lr": "teacher", "kind": "resampled", "dropout": "resampled"}
        more |= {"mutation": {**origins, "layers": "perturbed"}, "before": {"layers": 1 / 7}}
        clone = segment(1, 1, 1, parent=0, values=values, **more)
        study = study_of([trial(segment(0, 0, 0), 1.0, began), trial(clone, 2.0, cloned)])
        texts = [
            "trial 1: member 1, generation 1, 2, clone of trial 0",
            *("lr 0.001 → 0.1 (weight 3)", "layers 2 → 3 (weight 2)"),
            "kind sgd → adam (resampled)",
            "dropout 0.5 → 0.25 (resampled)",
        ]
        for chart in (lineage(study), trajectories(study), population(study)):
            (text,) = of(chart, Points, "clone, mutated").texts
            assert text.split("\n") == texts
        traces = visualization.plot_lineage(study).data
        (drawn,) = (trace for trace in traces if trace.name == "clone, mutated")
        assert drawn.text == "<br>".join(texts)

    def test_the_best_of_a_maximized_study_is_the_largest(self) -> None:
        assert at(of(lineage(small("maximize")), Points, "best")) == [(2, 3)]

    def test_a_segment_that_two_trials_completed_counts_once(self) -> None:
        twice = [trial(segment(n, 0, 0), 1.0 + n, {"dropout": 0.1}) for n in (0, 1)]
        assert at(of(lineage(study_of(twice)), Points, "birth")) == [(0, 0), (0, 2)]

    def test_the_line_of_the_best_is_its_lineage(self) -> None:
        study = create(burn_in=0, seed=3)
        study.optimize(bowl, n_trials=60)
        line = of(lineage(study), Line, "lineage of the best")
        ancestors = lineage_of(study)
        points = {point for point in zip(line.x, line.y, strict=True) if not math.isnan(point[0])}
        turns = {(a.generation, float(a.member or 0)) for a in ancestors if a.is_clone}
        assert turns <= points <= {(a.generation, float(a.member or 0)) for a in ancestors}


class TestPopulation:
    def test_lines_lead_from_the_first_to_the_last_value(self) -> None:
        chart = population(small(), ["dropout"])
        assert at(of(chart, Line, "lineage of the best")) == [
            *((0, 0.5), (1, 0.4), None),
            *((1, 0.48), (2, 0.48)),
        ]
        assert at(of(chart, Line, "survivors and their ancestors")) == [
            *((1, 0.4), (1, 0.4), (2, 0.4)),
        ]
        assert at(of(chart, Points, "clone, mutated")) == [(1, 0.48), (2, 0.24)]
        assert at(of(chart, Line, None)) == [(1, 0.4), (1, 0.48)]
        assert at(of(chart, Points, "best")) == [(2, 0.48)]  # where its line ends

    def test_a_panel_for_each_parameter_with_its_axis(self) -> None:
        chart = population(large(4, 3))
        labels = {panel.y.label: panel.y for panel in chart.panels}
        assert set(labels) == {"lr", "dropout", "layers", "kind"}
        assert [name for name, axis in labels.items() if axis.is_log] == ["lr"]
        assert labels["kind"].ticks == {0.0: "sgd", 1.0: "adam"}
        assert labels["layers"].is_integer
        assert [p.y.label for p in population(large(4, 3), ["kind", "lr"]).panels] == ["kind", "lr"]

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"names must be one of .dropout., .*'x'"):
            population(small(), ["dropout", "x"])

    @pytest.mark.parametrize("names", [3, "lr", []])
    def test_names_of_the_wrong_type_are_refused_even_without_trials(self, names: Any) -> None:
        for study in (small(), create()):
            with pytest.raises(ValueError, match="names must"):
                population(study, names)

    def test_of_many_parameters_the_first_are_drawn(self) -> None:
        def wide(asked: optuna.Trial) -> float:
            return sum(asked.suggest_float(f"x{i}", 0, 1) for i in range(15))

        study = create()
        study.optimize(wide, n_trials=3)
        chart = population(study)
        assert (len(chart.panels), chart.title) == (12, "Population; 12 of 15 parameters")
        assert len(population(study, [f"x{i}" for i in range(14)]).panels) == 14


class TestMutations:
    def test_degree_and_distance_are_means_by_origin(self) -> None:
        chart = mutations(small())
        degree, distance, dropout = chart.panels
        (line, points) = degree.marks
        assert at(line) == at(points) == [(1, 0.2)]
        lines = {mark.name: at(mark) for mark in distance.marks if isinstance(mark, Line)}
        assert lines == {"teacher": [(1, 0.08)], "resampled": [(2, 0.24)]}
        assert dropout.title == "dropout"
        assert at(of(chart, Points, "teacher", panel=2)) == [(1, 1.2)]

    def test_resampled_values_have_no_weights(self) -> None:
        study = create(burn_in=0, mutation="resample", resample_probability=1.0)
        study.optimize(silent, n_trials=40)
        degree, distance = mutations(study).panels
        assert not degree.marks
        assert {mark.name for mark in distance.marks} == {"resampled"}

    def test_weights_beyond_two_are_counted(self) -> None:
        params = {"layers": 1}, {"layers": 3}
        first = trial(segment(0, 0, 0), 1.0, params[0], refined={"layers": 1.5})
        more: dict[str, Any] = {"parent": 0, "values": {"layers": 3.0}}
        more |= {"mutation": {"layers": "perturbed"}, "before": {"layers": 0.5 / 7}}
        chart = mutations(study_of([first, trial(segment(1, 1, 1, **more), 1.0, params[1])]))
        assert chart.panels[2].title == "layers (1 beyond 2)"
        assert chart.panels[2].y.range == pytest.approx((-0.05, 2.05))

    def test_weights_close_to_one_have_an_axis_of_plain_numbers(self) -> None:
        more = {"parent": 0, "values": {"dropout": 0.5 * (1 + 1e-7)}, "queried": {"dropout": 0.5}}
        first = trial(segment(0, 0, 0), 1.0, {"dropout": 0.5})
        clone = trial(segment(1, 1, 1, **more), 1.0, {"dropout": 0.5 * (1 + 1e-7)})
        figure = mpl.plot_mutations(study_of([first, clone]))
        figure.canvas.draw()
        weights = figure.axes[2].yaxis
        assert weights.get_offset_text().get_text() == ""
        assert all(abs(float(label.get_text()) - 1) < 0.02 for label in weights.get_ticklabels())
        plt.close(figure)

    def test_nothing_is_mutated_at_first(self) -> None:
        study = create()
        study.optimize(bowl, n_trials=4)
        assert mutations(study).panels[0].message == "No mutation of a clone is stored."


class TestTrajectories:
    def test_paths_lead_through_first_and_last_values(self) -> None:
        chart = trajectories(small())
        assert (chart.panels[0].x.label, chart.panels[0].y.label) == ("dropout", "lr")
        assert chart.panels[0].y.is_log and chart.panels[0].x.range == (-0.02, 1.02)
        best = [(0.5, 0.01), (0.4, 0.01)]
        assert at(of(chart, Line, "lineage of the best")) == best
        assert at(of(chart, Line, "cloned in the best lineage")) == [(0.4, 0.01), (0.48, 0.01)]
        assert at(of(chart, Line, "cloned")) == [(0.48, 0.01), (0.24, 0.01)]
        assert at(of(chart, Points, "birth")) == [(0.5, 0.01), (0.9, 0.01)]
        assert at(of(chart, Points, "best")) == [(0.48, 0.01)]

    def test_a_surface_is_evaluated_over_the_ranges(self) -> None:
        chart = trajectories(small(), x="lr", y="dropout", surface=lambda lr, dropout: lr - dropout)
        (surface,) = (mark for mark in chart.panels[0].marks if isinstance(mark, Surface))
        assert (surface.x[0], surface.x[-1]) == pytest.approx((1e-4, 1.0))
        assert (surface.y[0], surface.y[-1]) == (0.0, 1.0)
        assert surface.x[1] / surface.x[0] == pytest.approx(surface.x[-1] / surface.x[-2])
        assert surface.height[-1][0] == pytest.approx(1e-4 - 1)

    def test_a_surface_has_holes_where_it_is_not_finite(self) -> None:
        study = small()
        figure = mpl.plot_trajectories(study, surface=lambda x, y: math.inf if x < 0.5 else y)
        plt.close(figure)
        chart = trajectories(study, surface=lambda x, y: math.nan)
        assert not any(isinstance(mark, Surface) for mark in chart.panels[0].marks)

    def test_categorical_parameters_on_request(self) -> None:
        panel = trajectories(small(), y="kind").panels[0]
        assert (panel.x.label, panel.y.ticks) == ("dropout", {0.0: "sgd", 1.0: "adam"})

    @pytest.mark.parametrize("argument", ["x", "y"])
    def test_unknown_parameters_are_refused(self, argument: str) -> None:
        with pytest.raises(ValueError, match=rf"{argument} must be one of .dropout"):
            trajectories(small(), **{argument: "width"})
        with pytest.raises(ValueError, match=f"{argument} must be a name, got 3"):
            trajectories(create(), **{argument: 3})

    def test_a_surface_must_be_callable(self) -> None:
        with pytest.raises(ValueError, match="surface must be callable, got 3"):
            trajectories(small(), surface=3)  # type: ignore[arg-type]

    def test_one_parameter_is_not_enough(self) -> None:
        study = create()
        study.optimize(bowl, n_trials=4)
        assert "no two numeric" in trajectories(study).panels[0].message

    def test_searches_by_gradients_have_paths(self) -> None:
        study = searched(16, n_chains=2)
        chart = trajectories(study)
        for chain in (0, 1):
            assert len(of(chart, Line, f"search {chain}").x) > 1
        best = study.best_params
        assert at(of(chart, Points, "best of the searches")) == [(best["x"], best["y"])]

    def test_rejected_steps_are_crosses(self) -> None:
        study = searched(12, step_size={"x": 0.7, "y": 0.7})
        left = [s for s in outer_steps(study) if s.verdict in ("rejected", "diverged")]
        assert {s.status for s in left} == {"rejected"}
        crosses = of(trajectories(study), Points, "rejected")
        assert left and at(crosses) == [(s.params["x"], s.params["y"]) for s in left]

    def test_a_point_that_diverged_is_never_the_best(self) -> None:
        def collapsing(asked: optuna.Trial) -> float:
            value = valley(asked)
            if asked.number in (3, 4):
                raise optuna.TrialPruned
            return 1e-4 if asked.number == 5 else value

        study = searched(12, collapsing, n_replicates=3)
        diverged, best = outer_steps(study)[1], outer_steps(study)[-1]
        assert (diverged.verdict, diverged.value) == ("diverged", 1e-4)
        star = of(trajectories(study), Points, "best of the searches")
        assert at(star) == [(best.params["x"], best.params["y"])]

    def test_of_many_steps_the_latest_are_drawn_and_the_best(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = sys.modules["optuna_hypergrad.visualization.figures.trajectories"]
        monkeypatch.setattr(module, "MAX_STEPS", 3)
        study = searched()
        chart = trajectories(study)
        assert chart.panels[0].x.label == "x"
        assert chart.title == "Trajectories: the latest 3 of 6 steps"
        assert len(of(chart, Line, "search 0").x) == 3
        best = study.best_params
        assert at(of(chart, Points, "best of the searches")) == [(best["x"], best["y"])]

    def test_more_searches_than_colours_differ_by_their_dashes(self) -> None:
        study = searched(16, n_chains=8)
        lines = [m for m in trajectories(study).panels[0].marks if isinstance(m, Line)]
        assert len({(line.color, line.dash) for line in lines}) == len(lines) == 8
        assert colors.RED not in {line.color for line in lines}

    def test_many_searches_share_one_entry_of_the_legend(self) -> None:
        study = searched(18, n_chains=9)
        marks = trajectories(study).panels[0].marks
        assert {mark.name for mark in marks if isinstance(mark, Line)} == {"searches"}


def valley(asked: optuna.Trial) -> float:
    x, y = asked.suggest_float("x", -1, 1), asked.suggest_float("y", -1, 1)
    report_hypergradient(asked, {"x": 2 * (x - 0.5), "y": 8 * (y - 0.3)})
    return (x - 0.5) ** 2 + 4 * (y - 0.3) ** 2


def ran(n_trials: int) -> optuna.Study:
    study = create()
    study.optimize(valley, n_trials=n_trials)
    return study


def searched(n_trials: int = 6, objective: Any = valley, **options: Any) -> optuna.Study:
    study = optuna.create_study(sampler=GradientSampler(seed=0, **options))
    study.optimize(objective, n_trials=n_trials)
    return study


def running() -> optuna.Study:
    study = ran(13)
    study.ask().suggest_float("x", -1, 1)
    return study


def failed() -> optuna.Study:
    study = create()
    for _ in range(6):
        run(study, None, optuna.trial.TrialState.FAIL)
    return study


def foreign() -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(silent, n_trials=3)
    return study


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "make", [create, running, partial(ran, 1), failed, foreign, searched, small]
)
def test_both_libraries_draw_any_study(make: Callable[[], optuna.Study], name: str) -> None:
    study = make()
    assert getattr(visualization, name)(study).to_json()
    figure = getattr(mpl, name)(study)
    figure.canvas.draw()
    plt.close(figure)


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("make", [create, foreign])
def test_a_study_without_segments_says_so(
    make: Callable[[], optuna.Study], chart: Callable[[optuna.Study], Chart]
) -> None:
    (panel,) = chart(make()).panels
    assert panel.message.endswith("has finished yet.") and not panel.marks


@pytest.mark.parametrize("chart", CHARTS)
def test_several_objectives_are_refused(chart: Callable[[optuna.Study], Chart]) -> None:
    with pytest.raises(ValueError, match="study: "):
        chart(optuna.create_study(directions=["minimize"] * 2))
    with pytest.raises(ValueError, match="study must be"):
        chart(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(20, 500), (2500, 4)])
@pytest.mark.slow
def test_ten_thousand_trials_make_small_figures_that_say_what_they_show(
    shape: tuple[int, int],
) -> None:
    study = large(*shape)
    for name in NAMES:
        figure = getattr(visualization, name)(study)
        assert 5_000 < len(figure.to_json()) < 300_000, name
        assert "latest" in figure.layout.title.text or name == "plot_mutations"


def test_of_a_generation_that_is_too_large_the_latest_segments_are_shown() -> None:
    genealogy = Genealogy.of(large(10, 2)).latest(4)
    assert [segment.trial for segment in genealogy.shown] == [16, 17, 18, 19]
    assert genealogy.title("Lineage") == "Lineage: the latest 4 of 20 segments"
