"""Figures of studies: a study in, a Plotly figure out.

``optuna_hypergrad.visualization.matplotlib`` has twins of the same names. All are drawn from what
is stored, at any time, for studies of whatever sampler; where there is nothing to see, the figure
says so. Needs ``pip install 'optuna_hypergrad[visualization]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from optuna.study import Study

from optuna_hypergrad.visualization import matplotlib as matplotlib
from optuna_hypergrad.visualization.drawing.plotly import draw
from optuna_hypergrad.visualization.figures.convergence import convergence
from optuna_hypergrad.visualization.figures.hypergradients import hypergradients
from optuna_hypergrad.visualization.figures.hypervariance import hypervariance
from optuna_hypergrad.visualization.figures.lineage import lineage
from optuna_hypergrad.visualization.figures.mutations import mutations
from optuna_hypergrad.visualization.figures.population import population
from optuna_hypergrad.visualization.figures.schedules import schedules
from optuna_hypergrad.visualization.figures.step_sizes import step_sizes
from optuna_hypergrad.visualization.figures.trajectories import trajectories

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "plot_convergence",
    "plot_hypergradients",
    "plot_hypervariance",
    "plot_lineage",
    "plot_mutations",
    "plot_population",
    "plot_schedules",
    "plot_step_sizes",
    "plot_trajectories",
]


def plot_schedules(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> go.Figure:
    """The schedules of a search, one line for each outer step, coloured by step.

    What a search went on from is solid; what it rejected, or where training diverged, is dotted
    and faded; the best is black. Hyperparameters of a single value are shown over outer steps. Of
    many outer steps some are drawn, evenly chosen, and the title says how many.

    Args:
        study: A study; where no trial of a ``GradientSampler`` has finished, the figure says so.
        names: Names of hyperparameters, schedules or single parameters; by default
            the first twelve.
        chain: Which search of the study; by default the one with the best value.

    Raises:
        ValueError: If ``study`` is not one or has several objectives, ``names`` holds what it has
            not, or there is no such ``chain``.
        StoredDataError: If the storage holds something else than what was written there.

    Reference:
        FDS, Figure 1.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_schedules
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     errors = [value - best for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=6)
        >>> [axis.title.text for axis in plot_schedules(study).select_xaxes()]
        ['fraction of training']
    """
    return draw(schedules(study, names, chain))


def plot_hypergradients(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> go.Figure:
    """The hypergradient of each window over outer steps, in loss per unit of the hyperparameter.

    Where outer steps have replicates, a band shows their range. Open circles mark where the
    direction of the search has turned. Schedules of more than twelve windows are shown as cells,
    coloured by sign and size. Where sizes differ much, the axis is logarithmic on both sides.

    Args:
        study: A study; where no trial of a ``GradientSampler`` has finished, the figure says so.
        names: Names of hyperparameters with hypergradients, schedules or single parameters; by
            default the first twelve. Schedules of many windows are shown as cells.
        chain: Which search of the study; by default the one with the best value.

    Raises:
        ValueError: If ``study`` is not one or has several objectives, ``names`` holds what it has
            not, or there is no such ``chain``.
        StoredDataError: If the storage holds something else than what was written there.

    Reference:
        FDS, Figure 4.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_hypergradients
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     errors = [value - best for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=6)
        >>> [len(trace.x) for trace in plot_hypergradients(study).data if trace.name is None][1:4]
        [6, 6, 6]
    """
    return draw(hypergradients(study, names, chain))


def plot_step_sizes(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> go.Figure:
    """The step size γ of each hyperparameter over outer steps.

    γ is that of the move that follows an outer step, in units of the hyperparameter, or as the
    factor that the move multiplies it by where its range is logarithmic (×1.5), as in the log.
    Crosses mark outer steps that were rejected, diverged, were pruned or failed.

    Args:
        study: A study; where no trial of a ``GradientSampler`` has finished, the figure says so.
        names: Names of hyperparameters with hypergradients, schedules or single parameters; by
            default the first twelve. Schedules of many windows are shown by twelve of them.
        chain: Which search of the study; by default the one with the best value.

    Raises:
        ValueError: If ``study`` is not one or has several objectives, ``names`` holds what it has
            not, or there is no such ``chain``.
        StoredDataError: If the storage holds something else than what was written there.

    Reference:
        FDS, Algorithm 1.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_step_sizes
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     errors = [value - best for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=6)
        >>> [round(size, 3) for size in plot_step_sizes(study).data[2].y][:-1]
        [0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
    """
    return draw(step_sizes(study, names, chain))


def plot_convergence(study: Study, retrained: float | Sequence[float] | None = None) -> go.Figure:
    """The objective value by trial, what became of each, and the best so far.

    Trials without a value are in a strip of their own above the others. Where values span more
    than a decade, their axis is logarithmic.

    Args:
        study: A study of any sampler, with one objective.
        retrained: What training anew with the best schedule has come to: one value, or one for
            each seed, in the objective's unit.

    Raises:
        ValueError: If ``study`` is not one or has several objectives, or ``retrained`` is not
            finite.
        StoredDataError: If the storage holds something else than what was written there.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_convergence
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     errors = [value - best for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0))
        >>> study.optimize(objective, n_trials=6)
        >>> [trace.name for trace in plot_convergence(study, retrained=0.01).data]
        ['retrained best', 'best so far', 'accepted']
    """
    return draw(convergence(study, retrained))


def plot_hypervariance(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> go.Figure:
    """How noisy the hypergradient of each window is, between replicates of an outer step.

    Hypervariance is the standard deviation of the replicates over the size of their mean: above 1
    there is more noise than signal. Sign fluctuation is the share of replicates that are of the
    rarer sign, at most 1/2. Both need outer steps that ran more than once, with ``n_replicates`` or
    several workers.

    Args:
        study: A study; where no trial of a ``GradientSampler`` has finished, the figure says so.
        names: Names of hyperparameters with hypergradients, schedules or single parameters; by
            default the first twelve.
        chain: Which search of the study; by default the one with the best value.

    Raises:
        ValueError: If ``study`` is not one or has several objectives, ``names`` holds what it has
            not, or there is no such ``chain``.
        StoredDataError: If the storage holds something else than what was written there.

    Reference:
        FDS, Section 5.1 and Figure 2.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import GradientSampler, report_hypergradient, suggest_schedule
        >>> from optuna_hypergrad.visualization import plot_hypervariance
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     lr = suggest_schedule(trial, "lr", 0.0, 1.0, windows=3)
        ...     noise = 0.3 * (-1) ** trial.number
        ...     errors = [value - best + noise for value, best in zip(lr.values, [0.8, 0.7, 0.1])]
        ...     report_hypergradient(trial, dict(zip(lr.names, errors)))
        ...     return sum(error**2 for error in errors) / 2
        >>> study = optuna.create_study(sampler=GradientSampler(seed=0, n_replicates=2))
        >>> study.optimize(objective, n_trials=6)
        >>> [round(bar, 2) for bar in plot_hypervariance(study).data[0].y]
        [0.57, 0.65, 8.49]
    """
    return draw(hypervariance(study, names, chain))


def plot_lineage(study: Study) -> go.Figure:
    """Who descends from whom in a population, and who lives on.

    Each member of the population has a lane, from left to right; a slanted line leads from a parent
    to its mutated clone in the lane of the student that it replaced. Black is the lineage of the
    best student, blue that of all who are alive in the end, grey what died out. Explorers, which
    run while all members are taken, have lanes below. Of more than 2,000 segments, the latest
    generations are shown.

    Args:
        study: A study with trials of a ``PopulationSampler``; of others, the figure says so.

    Raises:
        ValueError: If ``study`` is not one, or has several objectives.
        StoredDataError: If the storage holds something else than what was written there.

    Reference:
        "Population Based Training of Neural Networks", the figure of phylogenetic trees.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler
        >>> from optuna_hypergrad.visualization import plot_lineage
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=4))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=40)
        >>> plot_lineage(study).layout.title.text
        'Lineage'
    """
    return draw(lineage(study))


def plot_population(study: Study, names: Sequence[str] | None = None) -> go.Figure:
    """The hyperparameters of every student over generations.

    A segment lasts from its generation to the next: a line leads from what it began with to what it
    ended with, and on to the next segment of the same student. Where a student was replaced by a
    mutated clone, its line breaks off, and an orange point marks what the clone began with. The
    black line of the best ends at a star, where the best value was found.

    Args:
        study: A study with trials of a ``PopulationSampler``; of others, the figure says so.
        names: The parameters to show, a panel each; by default the first twelve.

    Raises:
        ValueError: If ``study`` is not one, or has several objectives; if the students have no
            parameter of one of the ``names``.
        StoredDataError: If the storage holds something else than what was written there.

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
    return draw(population(study, names))


def plot_mutations(study: Study) -> go.Figure:
    """The weights by which mutation multiplied hyperparameters, and their degree, over time.

    A weight multiplies the fraction of the range, from the lower bound, in log space for log
    ranges, as in the log: the teacher's is g = 1 + tanh(…) in (0, 2), a perturbation's 0.8 or
    1.2. The degree is the mean of |g − 1| over the clones of a generation and their
    hyperparameters. What was drawn anew has no degree; the second panel tells how far all have
    been moved.

    Args:
        study: A study with trials of a ``PopulationSampler``; of others, the figure says so.

    Raises:
        ValueError: If ``study`` is not one, or has several objectives.
        StoredDataError: If the storage holds something else than what was written there.

    Reference:
        "Learning to Mutate with Hypergradient Guided Population" (HPM), Eq. 9.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler
        >>> from optuna_hypergrad.visualization import plot_mutations
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=4))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=40)
        >>> sorted({trace.name for trace in plot_mutations(study).data if trace.name})
        ['no change', 'perturbed']
    """
    return draw(mutations(study))


def plot_trajectories(
    study: Study,
    x: str | None = None,
    y: str | None = None,
    surface: Callable[[float, float], float] | None = None,
) -> go.Figure:
    """The paths of students, or of gradient searches, through two hyperparameters.

    A student's path leads through what its segments began and ended with; a dotted line leads from
    a parent to its mutated clone. A search's path leads through the outer steps that it accepted;
    crosses are those that it came back from.

    Args:
        study: A study with trials of a ``PopulationSampler`` or a ``GradientSampler``; of others,
            the figure says so.
        x: The parameter along the horizontal axis; by default the first numeric one.
        y: The one along the vertical axis; by default the next.
        surface: Given values of both, the loss there, to be drawn in grey behind the paths. It is
            called at 80 × 80 points.

    Raises:
        ValueError: If ``study`` is not one, or has several objectives; if there is no parameter
            ``x`` or ``y``; if ``surface`` is not callable.
        StoredDataError: If the storage holds something else than what was written there.

    Reference:
        "Learning to Mutate with Hypergradient Guided Population" (HPM), the trajectories on
        synthetic functions.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import PopulationSampler, report_hypergradient
        >>> from optuna_hypergrad.visualization import plot_trajectories
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
        ...     report_hypergradient(trial, {"x": 2 * x, "y": 8 * y})
        ...     return x**2 + 4 * y**2
        >>> study = optuna.create_study(sampler=PopulationSampler(seed=0, population_size=4))
        >>> study.optimize(objective, n_trials=40)
        >>> figure = plot_trajectories(study, surface=lambda x, y: x**2 + 4 * y**2)
        >>> figure.layout.xaxis.title.text, figure.data[0].type
        ('x', 'heatmap')
    """
    return draw(trajectories(study, x, y, surface))
