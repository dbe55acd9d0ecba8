"""The figure of a job of populations.py: losses, mutation degrees and cost by method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from populations_results import PARTS
from results import standard_error

Cells = list[dict[str, Any]]  # of a method, one for each seed


def draw(cells: dict[str, Cells], file: Path) -> None:
    """Draw three panels, with means and standard errors over the seeds."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    colors = {method: f"C{i}" for i, method in enumerate(cells)}
    for method, found in cells.items():
        if found:
            _draw_curve(axes[0], found, _best_losses, colors[method], method)
            _draw_curve(axes[1], found, _degrees, colors[method], method)
    axes[0].set(title="best member, validation loss", xlabel="segment", ylabel="loss")
    axes[1].set(title="mutation degree", xlabel="segment", ylabel="mean |g − 1| of clones")
    axes[1].set_yscale("log")
    axes[0].legend(fontsize=7)
    _draw_shares(axes[2], {method: found for method, found in cells.items() if found})
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _best_losses(cell: dict[str, Any]) -> dict[int, float]:
    """Lowest loss on the selection part so far, by segment."""
    losses = [row["selection"] for row in cell["losses"][: cell["generations"]]]
    return dict(enumerate(np.minimum.accumulate(losses).tolist()))


def _degrees(cell: dict[str, Any]) -> dict[int, float]:
    return {int(generation): one["degree"] for generation, one in cell["mutation"].items()}


def _draw_curve(
    axis: Axes,
    found: Cells,
    curve: Callable[[dict[str, Any]], dict[int, float]],
    color: str,
    label: str,
) -> None:
    values: dict[int, list[float]] = defaultdict(list)
    for cell in found:
        for segment, value in curve(cell).items():
            values[segment].append(value)
    if not values:  # a method without clones has no mutation
        return
    segments = sorted(values)
    means = np.array([np.mean(values[segment]) for segment in segments])
    errors = np.array([standard_error(values[segment]) for segment in segments])
    axis.plot(segments, means, "o-", markersize=3, color=color, label=label)
    errors = np.nan_to_num(errors)
    axis.fill_between(segments, means - errors, means + errors, color=color, alpha=0.15)


def _draw_shares(axis: Axes, cells: dict[str, Cells]) -> None:
    """The parts of the cost, in percent."""
    left = np.zeros(len(cells))
    for part in PARTS:
        shares = [
            np.mean([100 * one["seconds"][part] / sum(one["seconds"].values()) for one in found])
            for found in cells.values()
        ]
        axis.barh([*cells], shares, left=left, label=part)
        left += shares
    axis.invert_yaxis()
    axis.set(title="parts of the cost", xlabel="% of CPU seconds")
    axis.legend(fontsize=7, loc="lower left")
