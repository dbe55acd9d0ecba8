"""Hessian products of one batch, taken in different ways to see which work and how fast."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.kernels import (
    Kernels,
    candidates,
    differentiate_twice,
    second_derivatives,
    unsupported,
)
from optuna_hypergrad.autodiff.metering import timed
from optuna_hypergrad.autodiff.objective import Batch, Objective
from optuna_hypergrad.autodiff.products import WAYS, Along, forward_over_reverse
from optuna_hypergrad.autodiff.replay.surroundings import Surrounding
from optuna_hypergrad.autodiff.stop_gradient import StopGradients, Stops
from optuna_hypergrad.autodiff.updates.protocol import Values

_QUICK = 0.002  # seconds that the gradient of a quick model takes at most
MOST_ROWS, _FEW_ROWS = 8, 2  # that are tried; of a quick model, and of any other
_ROUNDS = 6, 1  # that are timed, likewise
_HOPELESS = 4.0, 1.5  # a way that takes so many times as long at first is not timed, likewise
_GAIN = 0.85  # another way must take less than this share of the time of double backward passes

_NO_ROUNDING = 0.03  # a relative difference between products that rounding does not explain

_DIFFERENT = (
    "It gives products that differ from those of double backward passes by {:.0%}; its random "
    "numbers, those of dropout for example, may be others."
)
# What to do, by a part of what torch says.
_ADVICE = {
    "@once_differentiable": "Write its backward in operations of torch's and take the mark off.",
    "its gradient is sparse": "Pass sparse=False to nn.Embedding or nn.EmbeddingBag.",
    "use_reentrant": "Pass use_reentrant=False to torch.utils.checkpoint.checkpoint.",
    "not implemented": "Write it in other operations of torch's.",
}
_ANYWAY = "Replace it by operations that torch can differentiate twice."


class Found(NamedTuple):
    """A way to take products, and what has to be replaced in the model for it."""

    way: str
    kernels: Kernels


def use(objective: Objective, found: Found) -> None:
    """Have the loss run with what has to be replaced."""
    objective.switched = partial(second_derivatives, found.kernels)


class Tryout:
    """Takes products on one batch in different ways.

    The model's buffers and the random number generators are those that it began with whenever a
    way is tried; whoever makes it puts them back in the end, and ``objective.switched``, too.

    Args:
        objective: The loss.
        batch: The batch.
        hypers: Values of the hyperparameters of the loss.
        rows: How many products are taken at a time, ``MOST_ROWS`` at most.
    """

    def __init__(self, objective: Objective, batch: Batch, hypers: Values, rows: int) -> None:
        self._objective, self._batch, self._hypers = objective, batch, hypers
        self._device, self._like = objective.weights.device, objective.weights.parameters[0]
        self._surrounding = Surrounding(objective.model, self._device, ())
        self._start = self._surrounding.now()
        self._rows = rows

    def obstacle(self, kernels: Kernels) -> RuntimeError | None:
        """What torch says where the loss, or a part of it, cannot be differentiated twice."""
        self._begin(kernels)
        stops = Stops()
        try:
            with torch.enable_grad(), self._objective.switched():
                with StopGradients(stops):
                    loss = self._objective.differentiable(self._batch, self._hypers)
                differentiate_twice([loss], self._objective.weights.parameters)
                stops.forget()
            if stops.found:  # then a JVP is the derivative of a VJP, and so a third derivative
                self._products(Found("loop", kernels), self._along(1))
        except RuntimeError as error:
            return error
        return None

    def given(self, way: str) -> Found:
        """This way, if it gives what double backward passes give; else a ValueError."""
        first = self._double_backward()
        if way == "loop":
            return first
        found, along = Found(way, first.kernels), self._along(self._rows)
        expected = self._products(first, along)
        try:
            difference = _difference(self._products(found, along), expected)
        except RuntimeError as error:
            raise ValueError(_unfit(way, f"Torch says: {error}")) from error
        if difference > _NO_ROUNDING:
            raise ValueError(_unfit(way, _DIFFERENT.format(difference)))
        return found

    def fastest(self) -> Found:
        """Double backward passes, or what is clearly faster and gives the same."""
        best = first = self._double_backward()
        quick = timed(self._gradient, self._device, 2)[0] < _QUICK
        along = self._along(self._rows if quick else min(self._rows, _FEW_ROWS))
        rounds, hopeless = _ROUNDS[not quick], _HOPELESS[not quick]
        expected = self._products(first, along)
        reference = self._seconds(first, along, rounds)
        least = _GAIN * reference
        for name, way in WAYS.items():
            if name == "loop" or (way.at_once and len(along) == 1):
                continue
            if way.linearise is forward_over_reverse and not quick:
                continue  # it takes more memory than the run may have, and has never paid
            found = Found(name, first.kernels)
            if self._first_seconds(found, along, expected) < hopeless * reference:
                seconds = self._seconds(found, along, rounds)
                best, least = (found, seconds) if seconds < least else (best, least)
        return best

    def _double_backward(self) -> Found:
        """Double backward passes, with whatever has to be replaced for them."""
        error: RuntimeError | None = None
        for kernels in candidates(self._objective.model, self._device):
            error = self.obstacle(kernels)
            if error is None:
                return Found("loop", kernels)
        raise ValueError(self._blame(error)) from error

    def _blame(self, error: RuntimeError | None) -> str:
        """What to say of a model that cannot be differentiated twice, whatever is replaced."""
        self._surrounding.restore(self._start)
        with self._objective.switched():  # what can be replaced is not to blame
            module = unsupported(self._objective.model, self._run)
        told = f"The module is {module}"
        if module is None:
            told = f"None of its modules is at fault by itself; see to what loss_fn calls: {error}"
        advice = next((what for part, what in _ADVICE.items() if part in told), _ANYWAY)
        return (
            "model: it has no second derivative, which hypergradients need. "
            f"{told.rstrip('.')}. {advice}"
        )

    def _first_seconds(self, found: Found, along: Along, expected: Tensor) -> float:
        """Seconds of a first round; infinite where it fails, complains or gives anything else."""
        got: list[Tensor] = []

        def work() -> None:
            got.append(self._products(found, along))

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                seconds = timed(work, self._device, 1)[0]
        except Exception:  # whatever it is: this way is out, and another one works
            return math.inf
        exact = _difference(got[0], expected) <= torch.finfo(expected.dtype).eps ** 0.5
        return seconds if exact else math.inf

    def _seconds(self, found: Found, along: Along, rounds: int) -> float:
        """The best time of a way that has been taken before, so that all is warm."""
        return timed(partial(self._products, found, along), self._device, rounds)[0]

    def _products(self, found: Found, along: Along) -> Tensor:
        """The products as one vector."""
        self._begin(found.kernels)
        objective, batch, hypers = self._objective, self._batch, self._hypers
        products = WAYS[found.way](objective, batch, hypers, along, "jvp")[1]
        return torch.cat([products.weights.flatten(), products.hypers.flatten()])

    def _gradient(self) -> None:
        self._objective.slope(self._batch, self._hypers)

    def _run(self) -> Tensor:
        return self._objective(self._batch, self._hypers)

    def _begin(self, kernels: Kernels) -> None:
        use(self._objective, Found("loop", kernels))
        self._surrounding.restore(self._start)

    def _along(self, rows: int) -> Along:
        """Random directions."""
        like, learned = self._like, self._objective.learned
        return Along(
            torch.randn((rows, len(self._objective.weights)), dtype=like.dtype, device=like.device),
            torch.randn((rows, len(learned)), dtype=like.dtype, device=like.device),
        )


def _difference(found: Tensor, expected: Tensor) -> float:
    """Relative to what was expected."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def _unfit(way: str, reason: str) -> str:
    return (
        f"products={way!r} does not work for this model; products='auto' finds what does. {reason}"
    )
