"""The figure of the arena: loss on fresh seeds against compute, a panel for each job."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from results import Scores, budgets

from samplers import SAMPLERS

COLUMNS = 4


def draw(scores: Scores, file: Path) -> None:
    """Mean test loss of fresh seeds by compute in plain trainings, with a standard error.

    Of the jobs on which several samplers ran, if there are any.
    """
    shown = budgets(scores)
    scores = {job: by for job, by in scores.items() if len(by) > 1} or scores
    rows = -(-len(scores) // COLUMNS)
    columns = min(COLUMNS, len(scores))
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 2.5 * rows), squeeze=False)
    colors = dict(zip(SAMPLERS, plt.get_cmap("tab20").colors, strict=False))
    for ax, (job, by_sampler) in zip(axes.flat, scores.items(), strict=False):
        for name, by_budget in by_sampler.items():
            at = [budget for budget in shown if budget in by_budget]
            mean = np.array([by_budget[budget].mean for budget in at])
            error = np.nan_to_num([by_budget[budget].error for budget in at])
            compute, is_ours = [float(budget) for budget in at], name == "ours"
            style = {"color": "black" if is_ours else colors[name], "label": name}
            ax.plot(compute, mean, "o-", markersize=3, linewidth=2 if is_ours else 1, **style)
            ax.fill_between(compute, mean - error, mean + error, color=style["color"], alpha=0.12)
        ax.set_title(job, fontsize=9)
        _label(ax, [score.mean for by in by_sampler.values() for score in by.values()])
    for ax in axes.flat[len(scores) :]:
        ax.axis("off")
    axes[-1][0].set_xlabel("compute in plain trainings")
    axes[0][0].set_ylabel("test loss, fresh seeds")
    lines = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="lower center",
        fontsize=8,
        ncol=min(6, 2 * columns),
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.35 / rows / 2.5 + 0.03, 1, 1))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _label(ax: Axes, means: list[float]) -> None:
    """Logarithmic axes with a few plain numbers."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = min(means), 1.001 * max(means)  # one value alone has a range, too
    ax.set_ylim(low / (high / low) ** 0.15, high * (high / low) ** 0.15)
    for axis, at in ((ax.xaxis, (10, 25, 50, 500)), (ax.yaxis, np.geomspace(low, high, 4))):
        axis.set_major_locator(FixedLocator(list(at)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
