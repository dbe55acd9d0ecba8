"""Draw what the searches over many hyperparameters found, and print their tables.

    python examples/many/figure.py

Above, the lowest validation loss by plain trainings, of which Optuna's samplers have ten times as
many; below, what the first seed of ours learned.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import many
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLORS = {"ours": "C0", "random": "C7", "tpe": "C1", "cmaes": "C2"}
Arrays = Mapping[str, Any]


def losses(axes: Axes, cells: Mapping[str, Any]) -> None:
    """The lowest loss so far of each cell."""
    for name, cell in many.in_order(cells).items():
        method, _, seed = name.partition("/")
        label = method if seed == "0" else None
        best = np.minimum.accumulate(cell["values"])
        axes.step(np.cumsum(cell["costs"]), best, COLORS[method], where="post", label=label)
    axes.set(xscale="log", xlabel="plain trainings", ylabel="lowest validation loss")
    axes.legend()


def groups(axes: Axes, arrays: Arrays) -> None:
    """Weights of good and of mislabelled groups."""
    import cleaning

    weight, is_bad = np.array(arrays["weight"]), cleaning.bad_groups().numpy()
    bins = np.linspace(0, 1, 21)
    parts = [weight[~is_bad], weight[is_bad]]
    axes.hist(parts, bins, label=["right labels", "wrong labels"], color=["C0", "C3"])
    axes.set(xlabel="weight", ylabel="groups")
    axes.legend()


def sources(axes: Axes, arrays: Arrays) -> None:
    """Weights of the sources of each kind, in order."""
    import mixture

    names = ("the target's", "others'", "garbled")
    for kind, name in zip(
        np.split(np.array(arrays["weight"]), len(mixture.KINDS)), names, strict=True
    ):
        axes.plot(np.sort(kind), label=name)
    axes.set(xlabel="sources of a kind, in order", ylabel="weight")
    axes.legend()


def schedules(axes: Axes, arrays: Arrays) -> None:
    """The learning rates of each layer."""
    rates = np.array(arrays["lr"])
    for layer, row in enumerate(rates):
        axes.step(np.arange(len(row)), row, where="post", label=f"layer {layer}")
    axes.set(yscale="log", xlabel="window", ylabel="learning rate")
    axes.legend()


def strengths(axes: Axes, arrays: Arrays) -> None:
    """Strengths of operations, and dropout rates of layers, by phase."""
    import augmentation

    for name, row in zip(augmentation.OPERATIONS, np.array(arrays["strength"]).T, strict=True):
        axes.plot(row, label=name)
    for layer, row in enumerate(np.array(arrays["dropout"]).T):
        axes.plot(row, "--", label=f"dropout {layer}")
    axes.set(xlabel="phase of training", ylabel="strength, rate")
    axes.legend(ncols=2, fontsize="small")


JOBS: dict[str, Callable[[Axes, Arrays], None]] = {
    "cleaning": groups,
    "mixture": sources,
    "rates": schedules,
    "augmentation": strengths,
}


def main() -> None:
    """Draw the jobs that have results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=many.RESULTS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "many.png")
    args = parser.parse_args()
    files = {job: args.results / f"{job}.json" for job in JOBS}
    found = {job: json.loads(file.read_text()) for job, file in files.items() if file.exists()}
    if not found:
        raise SystemExit(f"{args.results} has no results; run the scripts of the jobs first.")
    figure, axes = plt.subplots(2, len(found), figsize=(4.5 * len(found), 7), squeeze=False)
    for (job, results), (above, below) in zip(found.items(), axes.T, strict=True):
        print(f"\n{job}, {results['dimensions']} hyperparameters\n\n{many.table(results)}")
        above.set_title(f"{job}: {results['dimensions']} hyperparameters")
        losses(above, results["cells"])
        if "ours/0" in results["cells"]:
            JOBS[job](below, results["cells"]["ours/0"]["arrays"])
    figure.tight_layout()
    figure.savefig(args.output, dpi=70)


if __name__ == "__main__":
    main()
