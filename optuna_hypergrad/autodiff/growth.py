"""The growth of derivatives over a training run, and an estimate that bounds it.

Where training is chaotic, the adjoint a (and each tangent z) grows exponentially along the few
directions in which a step overshoots, and soon consists of nothing else: the exact hypergradient is
then right and useless, since it holds for changes of λ far smaller than any step of a search
(Metz et al., "Gradients are not all you need", 2021). With c the Hessian's part of a step,
a ← a + c, the damped estimate takes a ← a + α·c instead, with the largest α in [0, 1] for which

    ‖a + α·c‖ ≤ κ·‖a‖,    κ = 1 if ⟨a, c⟩ < 0, else 10^(1/T)                                (1)

so an overshoot (⟨a, c⟩ < 0, but ‖a + c‖ > ‖a‖) does not lengthen a, and negative curvature
(⟨a, c⟩ ≥ 0) does at most tenfold over the T steps of the run. With q = ‖c‖² and p = −⟨a, c⟩,

    α = min(1, 2p / q) if p > 0, else min(1, r / (√(p² + q·r) − p)),  r = (κ² − 1)·‖a‖²     (2)

Steps that keep the bound are exact. Unlike a bound on the norm of a, α leaves the parts of a that
do not overshoot as they are.

A tangent z grows without chaos, too, since each step adds u = (∂U/∂h)·Λ to it: linearly, and with
momentum quadratically at first. So forward mode takes the largest α in [0, 1] for which, n steps
after the tangent began,

    ‖k + α·c‖ ≤ (1 + 2/n)·‖z‖ + ‖u‖,    n ≥ 5                                                (3)

where k is the new tangent without the Hessian's part c; or, if there is none, the α in [0, 1] that
makes it shortest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optuna_hypergrad.algorithms.growth import DOMINATED
from optuna_hypergrad.arguments import check_choice
from optuna_hypergrad.autodiff.hparams import RunHparams

Estimate = Literal["damped", "exact"]

_LENGTHENED = 10.0  # by negative curvature over a run, at most
_YOUNG = 5  # steps after which a tangent is damped; before, it depends on single gradients


@dataclass(frozen=True)
class Growth:
    """The growth of the derivatives of a run, and how far it was damped.

    Example:
        >>> import torch
        >>> from optuna_hypergrad import Schedule
        >>> from optuna_hypergrad.autodiff import SGD, hypergradient
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> loss = lambda model, batch: (model(batch) ** 2).mean() / 2
        >>> x, lr = torch.ones(1, 1), Schedule("lr", [2.5, 0.5])  # 2.5 overshoots: 1 − 2.5 = −1.5
        >>> options = {"steps": 4, "mode": "reverse"}
        >>> growth = hypergradient(model, loss, SGD(lr), [x], x, **options).growth
        >>> growth.per_step.round(2).tolist()  # log10 of 1.5 and 0.5, from the first step on
        [0.18, 0.18, -0.3, -0.3]
        >>> growth.damping.round(2).tolist()  # α = 2 / 2.5 keeps the adjoint's length
        [0.2, 0.2, 0.0, 0.0]
        >>> growth.trust
        {'lr_0': 1.0, 'lr_1': 1.0}
    """

    per_step: NDArray[np.float64] = field(repr=False)
    """log10 of the factor by which each step lengthens the adjoint before any damping, shape
    (steps,). In forward mode, that of the longest tangent relative to linear growth; there,
    damping hides growth."""
    damping: NDArray[np.float64] = field(repr=False)
    """Share of each step's Hessian product that was left out, in [0, 1], shape (steps,)."""
    trust: dict[str, float]
    """By trial parameter, the fraction of its steps from which derivatives grow less than a
    hundredfold until the end of the run."""

    @property
    def to_end(self) -> NDArray[np.float64]:
        """log10 of the growth from before each step to the end of the run, shape (steps,)."""
        return _to_end(self.per_step)

    @property
    def total(self) -> float:
        """log10 of the largest growth from any step to the end; at least 0."""
        return float(max(self.to_end.max(initial=0.0), 0.0))

    @property
    def rate(self) -> float:
        """log10 of the mean growth by a step, over all steps; negative where derivatives decay."""
        return float(self.per_step.mean()) if len(self.per_step) else 0.0

    @property
    def dominated(self) -> int:
        """Number of first steps that are followed by a hundredfold growth; 0 if there are none."""
        steps = np.flatnonzero(self.to_end >= DOMINATED)
        return int(steps[-1]) + 1 if len(steps) else 0

    @property
    def damped(self) -> float:
        """Mean share of the Hessian products that was left out; 0 where all steps are exact."""
        return float(self.damping.mean()) if len(self.damping) else 0.0


class _Meter:
    """Measures the growth of a derivative, and damps it if asked.

    Args:
        estimate: ``"damped"`` or ``"exact"``.
        steps: T, the number of steps of the run.

    Raises:
        ValueError: If ``estimate`` is something else.
    """

    def __init__(self, estimate: Estimate, steps: int) -> None:
        check_choice("estimate", estimate, get_args(Estimate))
        self._estimate, self._steps = estimate, steps


class AdjointMeter(_Meter):
    """That of the adjoint of reverse mode."""

    def __init__(self, estimate: Estimate, steps: int) -> None:
        super().__init__(estimate, steps)
        self._lengths = np.ones((2, steps))
        self._weights = np.ones(steps)

    def weight(self, step: int, square: float, inner: float, q: float) -> float:
        """α of one step back.

        Args:
            step: The step.
            square: ‖a‖², of the adjoint without the Hessian's part.
            inner: ⟨a, c⟩.
            q: ‖c‖², of the Hessian's part.
        """
        self._lengths[:, step] = math.sqrt(square), math.sqrt(max(square + 2 * inner + q, 0.0))
        if self._estimate == "damped":
            self._weights[step] = adjoint_weight(square, -inner, q, self._steps)
        return float(self._weights[step])

    def growth(self, hypers: RunHparams) -> Growth:
        """The growth over the run, and the trust in each learned parameter."""
        before, after = self._lengths
        return _growth(before, after, self._weights, hypers)


class TangentMeter(_Meter):
    """That of the tangents of forward mode."""

    def __init__(self, estimate: Estimate, steps: int, like: Tensor) -> None:
        super().__init__(estimate, steps)
        # Tensors, which no step waits for.
        self._lengths = torch.ones((steps, 2), dtype=torch.float64, device=like.device)
        self._weights = torch.ones(steps, dtype=torch.float64, device=like.device)

    def grows(self, step: int, ages: Tensor, before: Tensor, new: Tensor) -> bool:
        """Measure one step of N tangents; whether one of them grows beyond Eq. 3 without u.

        Args:
            step: The step.
            ages: n, the number of steps since each tangent began, shape (N,).
            before: z, shape (N, D).
            new: k + c, shape (N, D).
        """
        old, length = _norm(before), _norm(new)
        begun = (ages > 0) & (old > 0)
        # Relative to linear growth, of the tangent that has grown most.
        ratios = torch.where(begun, torch.stack([old / ages, length / (ages + 1)]), 0.0)
        self._lengths[step] = ratios.amax(1) if len(ages) else 0.0
        if self._estimate == "exact":
            return False
        return bool(((ages >= _YOUNG) & (length > (1 + 2 / ages) * old)).any())

    def weights(
        self, step: int, ages: Tensor, before: Tensor, added: Tensor, kept: Tensor, curved: Tensor
    ) -> Tensor:
        """α of one step for each of N tangents, shape (N,).

        Args:
            step: The step.
            ages: n, shape (N,).
            before: z, shape (N, D).
            added: u, shape (N, D).
            kept: k, shape (N, D).
            curved: c, shape (N, D).
        """
        bound = (1 + 2 / ages) * _norm(before) + _norm(added)
        bound = torch.where(ages < _YOUNG, torch.inf, bound)
        alpha = tangent_weight(kept, curved, bound)
        self._weights[step] = alpha.mean()
        return alpha.to(kept.dtype)

    def growth(self, hypers: RunHparams) -> Growth:
        """The growth over the run, and the trust in each learned parameter."""
        before, after = self._lengths.cpu().numpy().T
        return _growth(before, after, self._weights.cpu().numpy(), hypers)


def _growth(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    weights: NDArray[np.float64],
    hypers: RunHparams,
) -> Growth:
    """From lengths of the derivative before and after each step, and from α, shape (steps,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        per_step = np.log10(after / before)
    per_step[(before == 0) | (after == 0)] = 0.0  # no derivative, so no growth
    per_step[np.isnan(per_step)] = np.inf  # overflown
    is_trusted = _to_end(per_step) < DOMINATED
    return Growth(per_step, 1 - weights, hypers.mean_over_steps(is_trusted.astype(float)))


def adjoint_weight(square: float, p: float, q: float, steps: int) -> float:
    """α of Eq. 2.

    Args:
        square: ‖a‖².
        p: −⟨a, c⟩.
        q: ‖c‖².
        steps: T.
    """
    if q == 0 or square == 0:  # a derivative of 0 may begin with any length
        return 1.0
    if p > 0:  # Eq. 2
        return min(2 * p / q, 1.0)
    room = (_LENGTHENED ** (2 / steps) - 1) * square
    root = math.sqrt(p * p + q * room)
    return min(room / (root - p), 1.0) if root > p else 1.0


def tangent_weight(kept: Tensor, curved: Tensor, bound: Tensor) -> Tensor:
    """α of Eq. 3 for each tangent, shape (N,), in double precision.

    Args:
        kept: k, shape (N, D).
        curved: c, shape (N, D).
        bound: Right side of Eq. 3, shape (N,).
    """
    p = -(kept * curved).sum(-1, dtype=torch.float64)
    q = _norm(curved).square()
    outside = _norm(kept).square() - bound.square()  # ‖k + α·c‖² − bound² at α = 0
    largest = (p + (p.square() - q * outside).sqrt()) / q  # NaN if none is within the bound
    alpha = torch.where(largest.isnan(), p / q, largest).clamp(0.0, 1.0)
    is_within = (q == 0) | bound.isinf() | (_norm(kept + curved) <= bound)
    return torch.where(is_within, 1.0, alpha)


def _norm(vectors: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)
    return norm


def _to_end(per_step: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(per_step[::-1])[::-1]
