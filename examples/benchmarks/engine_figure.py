"""Draw time and memory by the number of hyperparameters and by T, as ``engine.py`` measured them.

    python examples/benchmarks/engine_figure.py growth_hypers.json growth_steps.json --out FIGURE

The first file has one T and several numbers of hyperparameters, the second several T.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib
from engine import Measured, memory, of_method, over, read
from matplotlib.axes import Axes

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLES = {"baseline": "C2s:", "forward": "C0o-", "reverse": "C1D-"}


def count(one: Measured) -> int:
    """Number of hyperparameters."""
    return sum(map(int, one["hypers"].split("+")))


def steps(one: Measured) -> int:
    return int(one["steps"])


def draw(
    axes: tuple[Axes, Axes], runs: list[Measured], at: Callable[[Measured], int], label: str
) -> None:
    """Draw time and memory against ``at``, one line per method."""
    for method, style in STYLES.items():
        rows = []
        for x in sorted({at(one) for one in of_method(runs, method)}):
            case = [one for one in runs if at(one) == x]
            own, plain = of_method(case, method), of_method(case, "plain")
            rows.append((x, over(own, plain), (memory(own) - memory(plain)) / 1e6))
        if rows:
            xs, times, sizes = zip(*rows, strict=True)
            axes[0].plot(xs, times, style, label=method)
            axes[1].plot(xs, sizes, style, label=method)
    for axis, unit in zip(axes, ("time, in plain training", "MB over plain training"), strict=True):
        axis.set(xscale="log", xlabel=label, ylabel=unit, ylim=(0, 1.05 * axis.get_ylim()[1]))
        axis.set_xticks(sorted(set(map(at, runs))), map(str, sorted(set(map(at, runs)))))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("hypers", type=Path)
    parser.add_argument("steps", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    by_hypers, by_steps = read([args.hypers]), read([args.steps])
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    draw(axes[:, 0], by_hypers, count, f"hyperparameters (T = {by_hypers[0]['steps']})")
    draw(axes[:, 1], by_steps, steps, f"T ({count(by_steps[0])} hyperparameters)")
    axes[0, 0].legend(frameon=False)
    figure.savefig(args.out, dpi=120)


if __name__ == "__main__":
    main()
