"""The figures: each module makes one chart of what a study stores."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from optuna_hypergrad.visualization.charts import Chart
from optuna_hypergrad.visualization.figures.arrays import arrays as arrays
from optuna_hypergrad.visualization.figures.convergence import convergence as convergence
from optuna_hypergrad.visualization.figures.growth import growth as growth
from optuna_hypergrad.visualization.figures.hypergradients import hypergradients as hypergradients
from optuna_hypergrad.visualization.figures.hypervariance import hypervariance as hypervariance
from optuna_hypergrad.visualization.figures.lineage import lineage as lineage
from optuna_hypergrad.visualization.figures.mutations import mutations as mutations
from optuna_hypergrad.visualization.figures.population import population as population
from optuna_hypergrad.visualization.figures.schedules import schedules as schedules
from optuna_hypergrad.visualization.figures.step_sizes import step_sizes as step_sizes
from optuna_hypergrad.visualization.figures.trajectories import trajectories as trajectories

P = ParamSpec("P")
Figure = TypeVar("Figure")


def plot_function(
    chart: Callable[P, Chart], draw: Callable[[Chart], Figure], module: str, doc: str | None = None
) -> Callable[P, Figure]:
    """The public function ``plot_…`` that makes a chart and draws it.

    It has the arguments of ``chart``, and its docstring unless ``doc`` is given.
    """

    @wraps(chart)
    def plot(*args: P.args, **kwargs: P.kwargs) -> Figure:
        return draw(chart(*args, **kwargs))

    result = inspect.signature(draw).return_annotation
    plot.__name__ = plot.__qualname__ = f"plot_{chart.__name__}"
    plot.__module__, plot.__doc__ = module, doc or chart.__doc__
    plot.__annotations__ = {**chart.__annotations__, "return": result}
    signature = inspect.signature(chart).replace(return_annotation=result)
    setattr(plot, "__signature__", signature)  # noqa: B010 - types of functions do not have it
    return plot
