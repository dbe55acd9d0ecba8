"""Central differences of the loss of whole training runs, with their own error.

For each seed, a two-level design (Plackett and Burman, 1946) moves all hyperparameters at once by
one step up or down, in runs with common random numbers. A slope is half the difference between the
means of the runs above and below, so every run serves every slope. The signs of the columns are
drawn anew for each seed, which turns the interactions of hyperparameters into noise.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard
from trust_jobs import Job, Values

_TWELVE = "+-+---+++-+"  # first row of the design of 12 runs
CAP = 10.0  # losses above it, and those that are not finite, count as this


def design(n: int, seed: int) -> NDArray[np.float64]:
    """Signs by run and hyperparameter, for n hyperparameters; columns are orthogonal."""
    if n > 11:
        raise ValueError(f"a design of 12 runs has at most 11 columns, got {n} hyperparameters.")
    if n <= 7:
        signs = hadamard(8)[:, 1:].astype(float)
    else:
        row = np.array([1.0 if sign == "+" else -1.0 for sign in _TWELVE])
        signs = np.vstack([np.stack([np.roll(row, k) for k in range(11)]), -np.ones(11)])
    rng = np.random.default_rng(seed)
    return signs[:, rng.permutation(signs.shape[1])[:n]] * rng.choice([-1.0, 1.0], n)


def slopes(job: Job, root: Path, level: float, seed: int) -> tuple[Values, list[float]]:
    """Slope of the loss by each hyperparameter, in loss per step; and the losses."""
    names, values = list(job.scales), job.values(level)
    signs = design(len(names), seed)
    losses = [
        job.run(root, job.moved(values, dict(zip(names, row, strict=True))), seed, learn=()).loss
        for row in signs.tolist()
    ]
    capped = np.array([min(loss, CAP) if math.isfinite(loss) else CAP for loss in losses])
    return dict(zip(names, (signs.T @ capped / len(signs)).tolist(), strict=True)), losses
