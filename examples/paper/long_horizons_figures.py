"""Figures 1 and 3 to 5 of the paper, from the JSON of the experiments; one row for each job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from long_horizons_methods import NAMES
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

Cell = dict[str, Any]
Array = NDArray[np.float64]
PUBLISHED = ("published-reverse", "published", "published-unclipped")  # first, that of most steps
BY_STEP = (*PUBLISHED, "ours", "horizon-1", "unshared")
COLORS = {
    **{"published": "C3", "published-reverse": "lightcoral", "published-unclipped": "darkred"},
    **{"ours": "black", "hand-tuned": "C7", "random": "C2", "tpe": "C0", "cmaes": "C9", "gp": "C4"},
    **{"hyperband": "lightsteelblue", "greedy-online": "C1", "horizon-1": "C8", "unshared": "C6"},
}
LABELS = {"momentum": "momentum", "weight_decay": "weight decay"}
TICKS = (1, 1.5, 2, 3, 5, 10, 20, 30, 50, 90)  # percent
SMOOTHED = 50  # steps of the moving mean of rates that are not shared


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all figures; returns their files."""
    by_job = {job: [cell for cell in found["cells"] if cell["job"] == job] for job in found["jobs"]}
    folder.mkdir(exist_ok=True, parents=True)
    figures: dict[str, tuple[Callable[[Sequence[Axes], Sequence[Cell]], None], int]] = {
        "1": (searches, 4),
        "3": (schedules, 2),
        "4": (hypergradients, 3),
        "5": (grids, 1),
    }
    files = []
    for name, (draw_row, columns) in figures.items():
        size = (4.2 * columns, 3.3 * len(by_job))
        figure, axes = plt.subplots(
            len(by_job), columns, figsize=size, squeeze=False, layout="constrained"
        )
        for row, (job, cells) in zip(axes, by_job.items(), strict=True):
            draw_row(row, cells)
            row[0].set_title(f"{job}: {row[0].get_title()}", fontsize=10)
        files.append(folder / f"long_horizons_{name}.png")
        figure.savefig(files[-1], dpi=100)
        plt.close(figure)
    return files


def searches(axes: Sequence[Axes], cells: Sequence[Cell]) -> None:
    """Figure 1: schedules of the published search by outer step, and accuracies."""
    published = first(cells, *PUBLISHED)
    trials = [] if published is None else published["trials"]
    color = ScalarMappable(Normalize(1, max(2, len(trials))), "viridis")
    for i, trial in enumerate(trials):
        stairs(axes[0], rates(trial["params"]), color=color.to_rgba(i + 1))
    if trials:
        axes[0].figure.colorbar(color, ax=axes[0], label="outer step")
    axes[0].set_title(f"rates of {published['method'] if published else 'published'}", fontsize=10)
    axes[0].set(xlabel="fraction of the training", ylabel="learning rate")
    for name, scale in (("momentum", 1.0), ("weight_decay", 4e-3)):
        values = [trial["params"][name] / scale for trial in trials]
        label = LABELS[name] + ("" if scale == 1 else f" / {scale:g}")
        axes[1].plot(range(1, len(trials) + 1), values, "o-", markersize=3, label=label)
    axes[1].set(ylim=(-0.05, 1.05))
    count_steps(axes[1], "outer step")
    axes[1].set_title("momentum and weight decay", fontsize=10)
    if trials:
        legend(axes[1], 8)
    else:
        not_run(axes[0])
        not_run(axes[1])
    by_outer_step(axes[2], cells)
    by_compute(axes[3], cells)


def by_outer_step(ax: Axes, cells: Sequence[Cell]) -> None:
    """Validation error by trial, of the first seed of each method with hypergradients."""
    for method in BY_STEP:
        cell = first(cells, method)
        if cell is not None:
            style = {"color": COLORS[method], "label": method}
            steps = range(1, len(cell["trials"]) + 1)
            ax.plot(steps, errors(cell), "o-", markersize=3, **style)
    count_steps(ax, "outer step, or trial")
    show_errors(ax, "by outer step")
    legend(ax, 7)


def by_compute(ax: Axes, cells: Sequence[Cell]) -> None:
    """Validation error of the best trial so far by plain trainings, the mean over seeds."""
    for method in NAMES:
        own = [cell for cell in cells if cell["method"] == method and cell["trials"]]
        if own:
            at = np.linspace(0, max(cell["plain_trainings"] for cell in own), 200)
            mean = np.mean([best_errors(cell, at) for cell in own], axis=0)
            ax.plot(at, mean, color=COLORS[method], label=method, linewidth=1.3)
    ax.set(xlabel="plain trainings")
    show_errors(ax, "best trial so far")
    if ax.get_lines():
        ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def show_errors(ax: Axes, title: str) -> None:
    """A logarithmic axis of errors with plain numbers."""
    ax.set(ylabel="validation error in %", yscale="log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    low, high = ax.get_ylim()
    shown = [tick for tick in TICKS if low <= tick <= high]
    ax.set_yticks(shown)
    ax.set_title(title, fontsize=10)


def count_steps(ax: Axes, label: str) -> None:
    """An axis of whole numbers."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def errors(cell: Cell) -> list[float]:
    """Validation errors of all trials, in percent."""
    return [100 * (1 - (trial["accuracy"] or 0.0)) for trial in cell["trials"]]


def best_errors(cell: Cell, at: Array) -> Array:
    """Validation error in percent of the trial with the smallest loss so far; NaN before any."""
    costs = np.cumsum([trial["cost"] for trial in cell["trials"]])
    losses = np.array([trial["loss"] for trial in cell["trials"]])
    best = [int(np.argmin(losses[: i + 1])) for i in range(len(losses))]
    of_best = np.array(errors(cell))[best]
    index = np.searchsorted(costs, at, side="right") - 1
    return np.where(index < 0, np.nan, of_best[np.maximum(index, 0)])


def schedules(axes: Sequence[Axes], cells: Sequence[Cell]) -> None:
    """Figure 3: recommended learning rates of the searches that share values, and of the others."""
    shared = ("hand-tuned", "horizon-1", *PUBLISHED, "ours")
    for ax, methods in ((axes[0], shared), (axes[1], ("unshared",))):
        for method in methods:
            for seed, cell in enumerate(c for c in cells if c["method"] == method):
                found = rates(cell["recommended"])
                label = method if seed == 0 else None
                if len(found) > SMOOTHED:
                    stairs(ax, found, color="0.75", linewidth=0.4)
                    found = moving_mean(found)
                stairs(ax, found, color=COLORS[method], label=label, linewidth=1.3)
        ax.axhline(0, color="black", linewidth=0.5)
        ax.set(xlabel="fraction of the training", ylabel="learning rate")
        legend(ax, 7)
    axes[0].set_title("rates shared in 7 windows", fontsize=10)
    axes[1].set_title(f"a rate for each step; mean of {SMOOTHED}", fontsize=10)


def moving_mean(values: Array) -> Array:
    """Of fewer values at the ends."""
    ones = np.ones(SMOOTHED)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def hypergradients(axes: Sequence[Axes], cells: Sequence[Cell]) -> None:
    """Figure 4: hypergradients of the published search by outer step."""
    published = first(cells, *PUBLISHED)
    trials = [] if published is None else [t for t in published["trials"] if "gradient" in t]
    names = list(trials[0]["gradient"]) if trials else []
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, max(1, len(names) - 2)))
    for i, name in enumerate(n for n in names if n.startswith("lr")):
        plot_gradient(axes[0], trials, name, colors[i])
    for ax, name in zip(axes[1:], LABELS, strict=True):
        if name in names:
            plot_gradient(ax, trials, name, "C0")
    titles = (f"rates of {published['method'] if published else 'published'}", *LABELS.values())
    for ax, title in zip(axes, titles, strict=True):
        ax.axhline(0, color="black", linewidth=0.5)
        ax.set(ylabel="hypergradient")
        count_steps(ax, "outer step")
        ax.set_yscale("symlog", linthresh=1e-2)
        ax.set_title(title, fontsize=10)
    legend(axes[0], 7, 2)


def plot_gradient(ax: Axes, trials: Sequence[dict[str, Any]], name: str, color: Any) -> None:
    """The hypergradient of a parameter by outer step; a gap where it was not finite."""
    values = [trial["gradient"].get(name) for trial in trials]
    values = [np.nan if value is None else value for value in values]
    ax.plot(range(1, len(values) + 1), values, "o-", markersize=3, color=color, label=name)


def grids(axes: Sequence[Axes], cells: Sequence[Cell]) -> None:
    """Figure 5: validation accuracies of the hand-tuned grid, beside those of random search."""
    for method in ("hand-tuned", "random"):
        own = [cell for cell in cells if cell["method"] == method]
        found = [100 - error for cell in own for error in errors(cell)]
        if found:
            label = f"{method}, {len(found)} trainings"
            style = {"color": COLORS[method], "alpha": 0.6, "label": label}
            axes[0].hist(found, bins=np.linspace(0, 100, 41), density=True, **style)
    axes[0].set(xlabel="validation accuracy in %", ylabel="density")
    axes[0].set_title("all trainings", fontsize=10)
    legend(axes[0], 7)


def legend(ax: Axes, size: int, columns: int = 1) -> None:
    """A legend, if something has run."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=size, ncols=columns)
    else:
        not_run(ax)


def not_run(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not run", ha="center", transform=ax.transAxes)


def first(cells: Sequence[Cell], *methods: str) -> Cell | None:
    """The first seed of the first of these methods that has run."""
    ran = [c for m in methods for c in cells if c["method"] == m and c["trials"]]
    return ran[0] if ran else None


def rates(params: dict[str, float]) -> Array:
    """The learning rates of a trial, by window."""
    return np.array([value for name, value in params.items() if name.startswith("lr_")])


def stairs(ax: Axes, values: Array, **style: Any) -> None:
    """Values of windows of equal length over the fraction of the training."""
    if len(values):
        ax.stairs(values, np.linspace(0, 1, len(values) + 1), baseline=None, **style)
