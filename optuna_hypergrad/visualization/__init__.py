"""Figures of studies as Plotly figures; ``visualization.matplotlib`` has the same for matplotlib.

They are drawn from what the trials store, at any time and for studies of any sampler; without data
a figure says so. Needs ``pip install 'optuna_hypergrad[visualization]'``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

from optuna_hypergrad.visualization import charts, figures
from optuna_hypergrad.visualization import matplotlib as matplotlib
from optuna_hypergrad.visualization.plotly import draw

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "plot_arrays",
    "plot_convergence",
    "plot_growth",
    "plot_hypergradients",
    "plot_hypervariance",
    "plot_lineage",
    "plot_mutations",
    "plot_population",
    "plot_schedules",
    "plot_step_sizes",
    "plot_trajectories",
]

P = ParamSpec("P")


def _plotly(chart: Callable[P, charts.Chart]) -> Callable[P, go.Figure]:
    return figures.plot_function(chart, draw, __name__)


plot_arrays = _plotly(figures.arrays)
plot_convergence = _plotly(figures.convergence)
plot_growth = _plotly(figures.growth)
plot_hypergradients = _plotly(figures.hypergradients)
plot_hypervariance = _plotly(figures.hypervariance)
plot_lineage = _plotly(figures.lineage)
plot_mutations = _plotly(figures.mutations)
plot_population = _plotly(figures.population)
plot_schedules = _plotly(figures.schedules)
plot_step_sizes = _plotly(figures.step_sizes)
plot_trajectories = _plotly(figures.trajectories)
