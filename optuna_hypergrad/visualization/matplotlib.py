"""Twins of the figures in ``optuna_hypergrad.visualization``: matplotlib figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from optuna.study import Study

from optuna_hypergrad.visualization.drawing.matplotlib import draw
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
    from matplotlib.figure import Figure

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


def plot_convergence(study: Study, retrained: float | Sequence[float] | None = None) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_convergence``."""
    return draw(convergence(study, retrained))


def plot_hypergradients(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_hypergradients``."""
    return draw(hypergradients(study, names, chain))


def plot_hypervariance(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_hypervariance``."""
    return draw(hypervariance(study, names, chain))


def plot_schedules(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_schedules``."""
    return draw(schedules(study, names, chain))


def plot_step_sizes(
    study: Study, names: Sequence[str] | None = None, chain: int | None = None
) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_step_sizes``."""
    return draw(step_sizes(study, names, chain))


def plot_lineage(study: Study) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_lineage``."""
    return draw(lineage(study))


def plot_population(study: Study, names: Sequence[str] | None = None) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_population``."""
    return draw(population(study, names))


def plot_mutations(study: Study) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_mutations``."""
    return draw(mutations(study))


def plot_trajectories(
    study: Study,
    x: str | None = None,
    y: str | None = None,
    surface: Callable[[float, float], float] | None = None,
) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_trajectories``."""
    return draw(trajectories(study, x, y, surface))
