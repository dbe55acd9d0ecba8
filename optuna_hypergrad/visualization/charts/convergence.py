"""The objective value by trial, and the best so far."""

from __future__ import annotations

import math

import numpy as np
from optuna.study import Study
from optuna.trial import TrialState

from optuna_hypergrad.samplers.studies import maximizes
from optuna_hypergrad.visualization.charts import colors
from optuna_hypergrad.visualization.charts.marks import (
    Axis,
    Chart,
    Line,
    Mark,
    Panel,
    Points,
    message,
)

TITLE = "Convergence"


def convergence(study: Study) -> Chart:
    """See ``plot_convergence``."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    found = [(t.number, t.value) for t in trials if t.value is not None and math.isfinite(t.value)]
    if not found:
        return message(TITLE, "No trial has completed yet.")
    numbers, values = zip(*found, strict=True)
    best = (np.maximum if maximizes(study) else np.minimum).accumulate(values)
    marks: list[Mark] = [
        Points(numbers, values, colors.GREY, "trial"),
        Line(numbers, best.tolist(), colors.BLUE, "best so far", is_step=True),
    ]
    is_log = min(values) > 0
    panel = Panel("", Axis("trial", is_integer=True), Axis("objective value", is_log), marks)
    return Chart(TITLE, [panel], size=(7.0, 4.0))
