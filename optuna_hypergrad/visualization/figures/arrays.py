"""Arrays of hyperparameters over the trials of a study."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_hypergrad.algorithms.ranges import Array, Ranges
from optuna_hypergrad.arguments import check_names, lookup
from optuna_hypergrad.reports.arrays import StoredArray, array_names, read_array
from optuna_hypergrad.samplers.studies import check_one_objective
from optuna_hypergrad.visualization import charts
from optuna_hypergrad.visualization.charts import Axis, Heat, Panel
from optuna_hypergrad.visualization.charts.searches import subsample

TITLE = "Arrays of hyperparameters by trial"
MAX_ROWS, MAX_COLUMNS = 100, 200
CELLS = charts.Scale(
    "value within its range",
    low=-1,
    high=1,
    is_diverging=True,
    ticks={-1.0: "lower\nbound", 0.0: "middle", 1.0: "upper\nbound"},
)


def arrays(study: Study, names: Sequence[str] | None = None) -> charts.Chart:
    """Plot the entries of arrays, which ``suggest_array`` suggests, over the trials of a study.

    A row is an entry; rows are in the order of the values in the last trial, the largest on top.
    Of arrays with more than 100 entries, a row is the mean of several neighbours in that order.

    Args:
        study: A study. Without arrays, the figure says so.
        names: Names of arrays; by default all.

    Raises:
        ValueError: If ``study`` is not a study or has several objectives, or has no array of one
            of the ``names``.
        StoredDataError: If the stored data is damaged.

    Example:
        >>> import optuna
        >>> from optuna_hypergrad import report_hypergradient, suggest_array
        >>> from optuna_hypergrad.visualization import plot_arrays
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     x = suggest_array(trial, "x", 0.0, 1.0, 50)
        ...     report_hypergradient(trial, {"x": x - 0.3})
        ...     return float(((x - 0.3) ** 2).sum())
        >>> study = optuna.create_study()
        >>> study.optimize(objective, n_trials=6)
        >>> rows = plot_arrays(study).data[0].z
        >>> len(rows), len(rows[0])
        (50, 6)
    """
    check_one_objective(study)
    check_names("names", names)
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = [t for t in study.get_trials(deepcopy=False, states=states) if array_names(t)]
    if not trials:
        return charts.message(TITLE, "No finished trial has an array; see suggest_array.")
    by_name = {name: name for trial in trials for name in array_names(trial)}
    chosen = [lookup("names", name, by_name) for name in names or by_name]
    panels = [_panel(name, trials) for name in chosen]
    return charts.Chart(TITLE, panels)


def _panel(name: str, trials: Sequence[FrozenTrial]) -> Panel:
    found = [(trial.number, read_array(trial, name)) for trial in trials]
    shapes = [array.values.shape for _, array in found if array is not None]
    known = [(n, array) for n, array in found if array and array.values.shape == shapes[-1]]
    known = [known[i] for i in subsample(len(known), MAX_COLUMNS)]
    values = np.stack([_fractions(array) for _, array in known], axis=1)  # (entries, trials)
    rows = np.array_split(values[np.argsort(values[:, -1], kind="stable")], MAX_ROWS)
    cells = np.stack([row.mean(axis=0) for row in rows if len(row)])
    n, edges = len(values), np.cumsum([0, *(len(row) for row in rows if len(row))])
    numbers = [number for number, _ in known]
    x = [numbers[0] - 0.5, *((a + b) / 2 for a, b in pairwise(numbers))]
    heat = Heat([*x, numbers[-1] + 0.5], edges.tolist(), (2 * cells - 1).tolist())
    entries = Axis(f"{n} entries, by last value", range=(0, n))
    return Panel(name, Axis("trial", is_integer=True), entries, [heat], scale=CELLS)


def _fractions(array: StoredArray) -> Array:
    """The entries as fractions of the range."""
    bounds = np.array([array.low]), np.array([array.high]), np.array([array.log])
    return np.clip(Ranges(*bounds).to_unit(array.values.ravel()), 0.0, 1.0)
