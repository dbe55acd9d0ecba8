"""Fine schedules in a search: which of their parameters move together, cut anew at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from optuna_hypergrad.algorithms.ranges import Ranges
from optuna_hypergrad.algorithms.sharing import shared_gradient, shared_windows
from optuna_hypergrad.algorithms.sign_descent import Outcome
from optuna_hypergrad.reports import read_shapes
from optuna_hypergrad.samplers.steps import Claimed
from optuna_hypergrad.schedules import parameter_names

Windows = dict[str, tuple[int, ...]]  # by schedule, how many parameters each shared window holds


def fine_schedules(used: Sequence[Claimed]) -> dict[str, int]:
    """Schedules whose parameters may share, with their numbers, of the trials that decided."""
    shapes = ((name, shape) for one in used for name, shape in read_shapes(one.trial).items())
    return {name: shape.size for name, shape in shapes if shape.is_shared}


def share(
    outcome: Outcome, names: Sequence[str], ranges: Ranges, fine: Mapping[str, int]
) -> tuple[Outcome, Windows]:
    """Let the parameters of fine schedules tell their sum over a shared window.

    Parameters that move together move by the same step in search coordinates, so it is the
    hypergradient there that they share. Entries that say nothing count as zero.

    Args:
        outcome: What came of a step.
        names: The parameters, in its order.
        ranges: Their ranges.
        fine: Number of parameters by schedule.

    Returns:
        The outcome with shared hypergradients, and the windows that share.
    """
    gradient, windows = outcome.gradient.copy(), Windows()
    searched = ranges.unit_gradient(ranges.to_natural(outcome.point), gradient)
    for schedule, count in fine.items():
        own = [names.index(name) for name in parameter_names(schedule, count) if name in names]
        known = np.isfinite(searched[own])
        if known.any():
            h = np.where(known, searched[own], 0.0)
            windows[schedule] = shared_windows(h)
            gradient[own] = shared_gradient(h, windows[schedule])
    return outcome._replace(gradient=gradient), windows
