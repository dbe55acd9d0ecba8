"""Whether all ranks train the same run: what is compared at its start, and on the way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from optuna_hypergrad.autodiff.hypers import Hypers
from optuna_hypergrad.autodiff.progress import WatchesTangents
from optuna_hypergrad.distributed.ranks import Ranks

_MEETINGS = 100  # during a run


def facts(learned: Hypers, weights: Tensor, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same on all ranks before the first step; no loss need show ``settings``."""
    values = {f"{name} of the {owner}": str(hyper) for (owner, name), hyper in learned.all.items()}
    digest = hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()
    return {
        **{name: str(setting) for name, setting in settings.items()},
        **values,
        "the learned parameters": learned.names,
        "the checksum of the initial weights": digest[:16],
    }


def largest(norms: Sequence[float]) -> float:
    """The largest of the ranks' norms; NaN where one is."""
    return float(np.max(norms))


class SameRun:
    """After a step: what the user wants then, and now and again whether all ranks train the same.

    Ranks that do have losses that differ by rounding; ``tolerance`` is what rounding can become
    in the course of a run, as a fraction of a loss. A loss that is the small difference of large
    numbers rounds more coarsely: a hundred times ``tolerance ** 2``, the machine epsilon, of the
    largest loss so far is rounding, too.
    """

    def __init__(
        self,
        ranks: Ranks,
        steps: int,
        tolerance: float,
        on_step: Callable[[int, float], None] | None,
    ) -> None:
        self._ranks, self._every, self._on_step = ranks, max(steps // _MEETINGS, 1), on_step
        self._tolerance, self._scale = tolerance, 0.0

    def __call__(self, step: int, loss: float) -> None:
        if self._on_step is not None:
            self._on_step(step, loss)
        if step % self._every == 0:
            self.compare(f"the training loss of step {step}", loss)

    def attach(self, tangent_norm: Callable[[], float]) -> None:
        """Let what the user wants after a step watch the tangents of all ranks, if it does."""
        if isinstance(self._on_step, WatchesTangents):
            place = "the norm of the tangents"
            self._on_step.attach(lambda: largest(self._ranks.meet(place, tangent_norm())))

    def compare(self, name: str, loss: float) -> None:
        """Raise a RankError on all ranks if they differ in a loss."""
        losses = self._ranks.meet(name, loss)
        self._scale = max([self._scale, *(abs(one) for one in losses if math.isfinite(one))])
        for rank, other in enumerate(losses):
            if not self._alike(losses[0], other):
                raise self._ranks.differ(name, losses[0], rank, other)

    def _alike(self, one: float, other: float) -> bool:
        if math.isfinite(one) and math.isfinite(other):
            rounding = max(abs(one), abs(other)) + 100 * self._tolerance * self._scale
            return abs(one - other) <= self._tolerance * rounding
        return not math.isfinite(one) and not math.isfinite(other)
