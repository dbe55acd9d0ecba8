"""The hyperparameters of a population over generations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optuna.study import Study

from optuna_hypergrad.arguments import check_names, lookup
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Line, Points, colors, genealogy
from optuna_hypergrad.visualization.charts.genealogy import Genealogy, Point
from optuna_hypergrad.visualization.charts.parameters import Parameter, parameters_of

TITLE = "Population"
MAX_SEGMENTS = 4000  # in all panels: figures are stored as text
MAX_TEXTS = 100  # clones with hover texts
MAX_PANELS = 12  # unless names are given


def population(study: Study, names: Sequence[str] | None = None) -> charts.Chart:
    """Plot the hyperparameters of every member over generations.

    A segment lasts from its generation to the next: a line leads from its first values to its last
    values, and on to the next segment of the same member. Where a clone replaces a member, the line
    is interrupted, and an orange point marks the first value of the clone. The black line is the
    lineage of the best segment; it ends at a star, where the best value was found.

    Args:
        study: A study. Without finished trials of a ``PopulationSampler``, the figure says so.
        names: The parameters to show, a panel each; by default the first twelve.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, or if the population has
            no parameter of one of the ``names``.
        StoredDataError: If the stored data is damaged.

    Reference:
        "Learning to Mutate with Hypergradient Guided Population" (HPM), the schedules that a
        population finds.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler
        >>> from optuna_hypergrad.visualization import plot_population
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=4))
        >>> study.optimize(lambda trial: trial.suggest_float("lr", 1e-3, 1, log=True), n_trials=40)
        >>> plot_population(study, names=["lr"]).layout.yaxis.type
        'log'
    """
    check_names("names", names)
    tree = Genealogy.of(study)
    if not tree.shown:
        return charts.message(TITLE, genealogy.NO_SEGMENTS)
    trials = study.get_trials(deepcopy=False)
    known = parameters_of(trials[segment.trial] for segment in tree.shown)
    if names is not None:
        known = {name: lookup("names", name, known) for name in names}
    if not known:
        return charts.message(TITLE, "All parameters have a single possible value.")
    shown = [*known.values()][: MAX_PANELS if names is None else len(known)]
    tree = tree.latest(MAX_SEGMENTS // len(shown))
    title = tree.title(TITLE)
    if len(shown) < len(known):
        title += f"; {len(shown)} of {len(known)} parameters"
    panels = [
        charts.Panel("", genealogy.GENERATIONS, parameter.axis(), [*_marks(tree, parameter)])
        for parameter in shown
    ]
    return charts.Chart(title, panels, columns=min(2, len(panels)))


def _marks(tree: Genealogy, parameter: Parameter) -> Iterator[charts.Mark]:
    jumps = [
        [
            (parent.generation + 1, parameter.position(parent.ended)),
            (clone.generation, parameter.position(clone.params)),
        ]
        for parent, clone in tree.clones("best")
    ]
    if jumps:
        line = genealogy.polyline(jumps)
        yield Line(*line, genealogy.COLORS["best"], dash="dot", width=1.0)
    for kind in genealogy.KINDS:
        yield from genealogy.lines([_path(run, parameter) for run in tree.runs(kind)], kind)
    if clones := [*tree.clones(*genealogy.KINDS)]:
        x = [clone.generation for _, clone in clones]
        y = [parameter.position(clone.params) for _, clone in clones]
        is_few = len(clones) <= MAX_TEXTS
        texts = [genealogy.describe_clone(*pair) for pair in clones] if is_few else []
        yield Points(x, y, colors.ORANGE, "clone, mutated", size=3, texts=texts)
    best = tree.best
    if best is not None and best.generation >= tree.first:
        at = [best.generation + 1], [parameter.position(best.ended)]
        texts = [genealogy.describe_segment(best)]
        yield Points(*at, colors.RED, "best", "star", size=10, texts=texts)


def _path(run: genealogy.Run, parameter: Parameter) -> list[Point]:
    """The first and the last value of each segment."""
    path: list[Point] = []
    if run.parent is not None:
        path.append((run.parent.generation + 1, parameter.position(run.parent.ended)))
    for segment in run.segments:
        path.append((segment.generation, parameter.position(segment.params)))
        path.append((segment.generation + 1, parameter.position(segment.ended)))
    return path
