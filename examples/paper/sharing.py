"""Check on a real network how the noise of hypergradients falls where steps share a value.

By the paper's Theorem 4.1, the mean squared error of a mean over W steps, around its own
expectation, is at most (1 + c (W − 1)) / W of that of a single step, with c the largest correlation
of two steps; 1 / W if they are independent. Measured as the variance over trainings of the LeNet of
hypervariance.py that differ in their training batches, in double precision:

    python examples/paper/sharing.py --data-root DIR

As it is, and with the hypergradients of each step divided by their standard deviation, since the
theorem supposes the same variance for all. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hypervariance import BATCH_SIZE, PERTURBED, STEPS, Array, mnist, run, setting, shared
from matplotlib import pyplot as plt

from optuna_hypergrad.algorithms.noise import sharing_error

WIDTHS = (1, 2, 5, 10, 20, 40, 80, 200)


class Check(NamedTuple):
    """Errors by width as fractions of that of one step, with a standard error, and c."""

    widths: list[int]
    measured: list[float]
    errors: list[float]
    correlation: float

    def bound(self, correlation: float) -> list[float]:
        """The theorem's, without drift."""
        return [float(sharing_error(width, 1.0, 0.0, correlation)) for width in self.widths]


def check(runs: Array) -> Check:
    """The theorem's two sides, from hypergradients of shape (runs, steps)."""
    widths = [width for width in WIDTHS if width <= runs.shape[1] // 2]
    measured = fractions(runs, widths)
    without_one = [fractions(np.delete(runs, i, axis=0), widths) for i in range(len(runs))]
    jackknife = np.sqrt(len(runs) - 1) * np.std(without_one, axis=0)
    c = largest_correlation(runs, widths[-1])
    return Check(widths, measured.tolist(), jackknife.tolist(), c)


def fractions(runs: Array, widths: list[int]) -> Array:
    """Variance of means over windows of each width, as fractions of that of a single step."""
    variances = [float(shared(runs, width).var(axis=0, ddof=1).mean()) for width in widths]
    return np.array(variances) / variances[0]


def largest_correlation(runs: Array, lags: int) -> float:
    """The largest correlation of two steps by their distance, at most so many steps; at least 0."""
    deviations = standardised(runs)
    found = [
        float((deviations[:, :-lag] * deviations[:, lag:]).sum(0).mean()) / (len(runs) - 1)
        for lag in range(1, lags)
    ]
    return max(0.0, *found)


def standardised(runs: Array) -> Array:
    """Deviations from the mean of each step, over their standard deviation."""
    return (runs - runs.mean(axis=0)) / runs.std(axis=0, ddof=1)


def draw(checks: dict[str, Check], path: Path) -> None:
    """Measured errors by width, 1/W and the bound."""
    figure, axes = plt.subplots(1, len(checks), figsize=(9, 3.6), layout="constrained")
    for axis, (name, one) in zip(axes, checks.items(), strict=True):
        axis.errorbar(one.widths, one.measured, one.errors, fmt="o", color="C0", label="measured")
        axis.plot(one.widths, one.bound(0.0), "--", color="0.6", label="1/W")
        label = f"(1 + c (W − 1)) / W, c = {one.correlation:.2f}"
        axis.plot(one.widths, one.bound(one.correlation), color="C3", label=label)
        axis.set(title=name, xscale="log", yscale="log", xlabel="steps that share a value, W")
        axis.set_xticks(one.widths, [str(width) for width in one.widths], minor=False)
        axis.set_xticks([], minor=True)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("mean squared error / that of one step")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Train, check, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--figure", type=Path, default=Path("sharing.png"))
    parser.add_argument("--json", type=Path, help="write the table here")
    args = parser.parse_args()
    data, batches = mnist.load(args.data_root)
    held_out = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    settings = (
        setting(data, held_out, PERTURBED[0], seed, args.steps, BATCH_SIZE)
        for seed in range(args.runs)
    )
    runs = np.array([run(given) for given in settings])
    checks = {"as it is": check(runs), "steps of equal variance": check(standardised(runs))}
    for name, one in checks.items():
        print(f"{name}, c = {one.correlation:.3f}\n   W  measured          1/W     bound")
        bounds = zip(one.widths, one.measured, one.errors, one.bound(one.correlation), strict=True)
        for width, value, error, bound in bounds:
            print(f"{width:4}  {value:.4f} ± {error:.4f}  {1 / width:.4f}  {bound:.4f}")
    draw(checks, args.figure)
    if args.json is not None:
        found = {n: {**c._asdict(), "bound": c.bound(c.correlation)} for n, c in checks.items()}
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
