"""Twins of the figures in ``optuna_hypergrad.visualization``: matplotlib figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.study import Study

from optuna_hypergrad.visualization.charts.convergence import convergence
from optuna_hypergrad.visualization.drawing.matplotlib import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_convergence"]


def plot_convergence(study: Study) -> Figure:
    """Twin of ``optuna_hypergrad.visualization.plot_convergence``."""
    return draw(convergence(study))
