"""Figures of studies: a study in, a Plotly figure out.

``optuna_hypergrad.visualization.matplotlib`` has twins of the same names. All are drawn from what
is stored, at any time, for studies of whatever sampler; where there is nothing to see, the figure
says so. Needs ``pip install 'optuna_hypergrad[visualization]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.study import Study

from optuna_hypergrad.visualization.charts.convergence import convergence
from optuna_hypergrad.visualization.drawing.plotly import draw

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["plot_convergence"]


def plot_convergence(study: Study) -> go.Figure:
    """The objective value by trial, and the best so far.

    Args:
        study: A study of any sampler, with one objective.
    """
    return draw(convergence(study))
