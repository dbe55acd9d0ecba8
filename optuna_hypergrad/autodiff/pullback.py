"""The VJP of a training step: that of its update, and the Hessian product of its loss.

All steps of a run call the same operations of torch. So those of one step are recorded
(``tracing.py``), and run again for the others without Python and autograd. A trace cannot see a
Python number that changes from step to step, but the loss shows it, which has to be that of the
training, and where the loss stops gradients, the training gradient; and some steps are computed in
both ways. Where the two differ, or a step cannot be recorded, all steps are computed by autograd.
On request, what was recorded is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.autodiff.hparams import HparamsAtStep
from optuna_hypergrad.autodiff.recompute.comparison import check_recomputed, difference
from optuna_hypergrad.autodiff.recompute.recomputation import Recomputation
from optuna_hypergrad.autodiff.recompute.records import Visit
from optuna_hypergrad.autodiff.recording import PLAIN, kind_of
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.second_order.clipping import ProductClipping
from optuna_hypergrad.autodiff.second_order.hvp import Directions
from optuna_hypergrad.autodiff.step import TrainState, step_vjp
from optuna_hypergrad.autodiff.tracing import Trace, traced
from optuna_hypergrad.logger import logger

_WORTH = 16  # steps still to go back from which on a trace pays
_MOST = 4  # traces of a run: for batches of other shapes, and constants that change with windows
_LEAST = 1e-30  # sum of squares, which still has all its digits in single precision
_CHECKED = 64  # calls 1, 64, 4096, … of the traces are computed by autograd, too


class Pulled(NamedTuple):
    """Derivatives of the validation loss with respect to the inputs of one step.

    Args:
        kept: By w and s, with the training gradient held fixed.
        curved: By w through that gradient, shape (D,): the Hessian's part.
        by_value: By the learned numbers, in the order of ``RunHparams.learned``, shape (L,).
        by_tensor: By the learned tensors of the loss.
        measured: The training loss of the step; the number of clipped entries; and ‖a‖², ⟨a, c⟩
            and ‖c‖² for a = ``kept``, c = ``curved``; shape (5,), on the CPU.
    """

    kept: TrainState
    curved: Tensor
    by_value: Tensor
    by_tensor: dict[str, Tensor]
    measured: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All of it in a row."""
        parts = (self.measured, self.curved, self.by_value)
        return [*parts, *self.kept.tensors, *self.by_tensor.values()]

    @staticmethod
    def of(tensors: Sequence[Tensor], names: Sequence[str]) -> Pulled:
        """From ``tensors``; the last ones are by the learned tensors of these names."""
        measured, curved, by_value, weights, *rest = tensors
        n = len(rest) - len(names)
        kept, by_tensor = (
            TrainState(weights, tuple(rest[:n])),
            dict(zip(names, rest[n:], strict=True)),
        )
        return Pulled(kept, curved, by_value, by_tensor, measured)


def numbers_of(measured: Sequence[float], kept: Tensor, curved: Tensor) -> list[float]:
    """What ``Pulled`` measured of a run, in double precision where squares do not fit in single.

    Args:
        measured: The numbers as they are.
        kept: a, shape (D,).
        curved: c, shape (D,).
    """
    loss, n_clipped, square, _, q = measured
    if all(_LEAST < one < 1 / _LEAST for one in (square, q)):
        return [*measured]
    return [loss, n_clipped, *_inner_products(kept.double(), curved.double()).tolist()]


def _inner_products(a: Tensor, c: Tensor) -> Tensor:
    """‖a‖², ⟨a, c⟩ and ‖c‖²."""
    return torch.stack([a @ a, a @ c, c @ c])


class Recorded(NamedTuple):
    """The trace of a step.

    Args:
        trace: Gives the tensors of ``Pulled``.
        has_gradient: Whether it gives the training gradient, too, because the loss alone does not
            show whether the trace is right.
    """

    trace: Trace
    has_gradient: bool


class PullBack:
    """Pulls the adjoint back over the steps of a run.

    Args:
        run: The run.
        recomputation: Its steps.
        clipping: Of Hessian products.
        compiled: Whether to compile the traces.
    """

    def __init__(
        self, run: Run, recomputation: Recomputation, clipping: ProductClipping, compiled: bool
    ) -> None:
        self._run, self._recomputation, self._clipping = run, recomputation, clipping
        self._compiles = compiled
        self._traces: dict[Hashable, Recorded] = {}
        self._losses: list[float] = []  # of the training
        self._n_replayed = 0
        self._is_tracing = run.steps > _WORTH

    def __call__(self, visit: Visit, adjoint: TrainState) -> Pulled:
        """The derivatives by the inputs of a step.

        Args:
            visit: The step.
            adjoint: a and b after the step.

        Raises:
            RecomputeError: If the step came out differently from the training.
        """
        values = self._run.hypers.at(visit.step)
        if not self._is_tracing:
            return self._computed(visit, adjoint, values)
        given = [*tree_leaves(visit.batches), *values.update.values(), *values.loss.values()]
        tensors = [one for one in given if isinstance(one, Tensor)]
        inputs = [*tensors, *visit.point.tensors, visit.gradient, *adjoint.tensors]
        key = self._key(visit, given)
        if key in self._traces:
            return self._replayed(visit, adjoint, values, inputs, self._traces[key])
        if key is None or visit.step < _WORTH or len(self._traces) == _MOST:
            return self._computed(visit, adjoint, values)
        return self._recorded(visit, adjoint, values, inputs, key)

    def _computed(self, visit: Visit, adjoint: TrainState, values: HparamsAtStep) -> Pulled:
        gradient, pulled = differentiated(self._run, self._clipping, visit, adjoint, values)
        check_recomputed(visit.step, gradient, visit.gradient)
        return pulled

    def _recorded(
        self,
        visit: Visit,
        adjoint: TrainState,
        values: HparamsAtStep,
        inputs: Sequence[Tensor],
        key: Hashable,
    ) -> Pulled:
        """By autograd; the trace is for later steps."""

        loss = self._run.loss

        def pull_back() -> tuple[list[Tensor], tuple[Tensor, Pulled]]:
            gradient, pulled = differentiated(self._run, self._clipping, visit, adjoint, values)
            shown = [gradient] if loss.stops_gradients else []
            return [*pulled.tensors, *shown], (gradient, pulled)

        owned = [*self._run.weights.parameters, *loss.model.buffers()]
        trace, (gradient, pulled) = traced(pull_back, inputs, owned)
        check_recomputed(visit.step, gradient, visit.gradient)
        if isinstance(trace, str):
            self._give_up(trace)
            return pulled
        self._traces[key] = Recorded(trace, loss.stops_gradients)
        if self._compiles:
            self._compile_trace(trace, inputs)
        return pulled

    def _compile_trace(self, trace: Trace, inputs: Sequence[Tensor]) -> None:
        """Compile a trace, or say why it is not: the training must not be lost for that."""
        try:
            trace.compile(inputs)
        except Exception as error:  # whatever inductor and the compilers that it calls raise
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self._interpret(f"compilation failed ({reason})")

    def _replayed(
        self,
        visit: Visit,
        adjoint: TrainState,
        values: HparamsAtStep,
        inputs: Sequence[Tensor],
        recorded: Recorded,
    ) -> Pulled:
        """By a trace, if it gives the loss of the training; else by autograd."""
        trace = recorded.trace
        if not trace.is_valid():
            self._give_up("tensors that it uses have been changed")
            return self._computed(visit, adjoint, values)
        try:
            tensors = trace(inputs)
        except RuntimeError as error:
            self._distrust(f"torch cannot run its operations again ({str(error).splitlines()[0]})")
            self._recomputation.restore(visit)
            return self._computed(visit, adjoint, values)
        tolerance = _tolerance(visit.gradient, trace.is_compiled)
        gradient = tensors.pop() if recorded.has_gradient else visit.gradient
        pulled = Pulled.of(tensors, self._run.hypers.tensors)
        is_right = self._has_loss(visit.step, pulled)
        is_right &= gradient is visit.gradient or difference(gradient, visit.gradient) <= tolerance
        self._n_replayed += 1
        if is_right and not _is_power(self._n_replayed, _CHECKED):
            return pulled
        self._recomputation.restore(visit)
        expected = self._computed(visit, adjoint, values)
        pairs = zip(pulled.tensors, expected.tensors, strict=True)
        if not (is_right and all(difference(f.to(e), e) <= tolerance for f, e in pairs)):
            change = "its operations change from step to step"
            self._distrust("a step came out differently" if trace.is_compiled else change)
        return expected

    def _has_loss(self, step: int, pulled: Pulled) -> bool:
        """Whether the loss of a step is that of the training."""
        if not self._losses:
            self._losses = self._recomputation.losses.tolist()  # at once: a GPU waits for each read
        found, expected = pulled.measured.tolist()[0], self._losses[step]
        tolerance = _tolerance(self._recomputation.losses, False) * abs(expected)
        return not math.isfinite(expected) or bool(abs(found - expected) <= tolerance)

    def _distrust(self, reason: str) -> None:
        """Do without compiled code, if there is some; else without traces."""
        if self._compiles:
            self._interpret(reason)
        else:
            self._give_up(reason)

    def _interpret(self, reason: str) -> None:
        logger.warning(f"compiled=True: steps back are not compiled, which takes longer: {reason}.")
        self._compiles, self._n_replayed = False, 0  # so that the next step is checked
        for recorded in self._traces.values():
            recorded.trace.interpret()

    def _give_up(self, reason: str) -> None:
        logger.info(f"Steps are differentiated one by one, which takes longer: {reason}.")
        self._traces.clear()
        self._is_tracing = False

    def _key(self, visit: Visit, given: Sequence[object]) -> Hashable | None:
        """What is the same for steps with the same trace; None if there can be none."""
        kinds: list[Hashable] = []
        for one in given:
            if isinstance(one, Tensor):
                kinds.append(kind_of(one))
            elif isinstance(one, PLAIN):
                kinds.append((type(one), one))
            else:
                return None
        buffers = tuple(id(buffer.tensor) for buffer in visit.snapshot.buffers)
        shapes = tuple(part.shape for part in visit.point.state)
        return (*kinds, visit.has_grad, visit.snapshot.modes, buffers, shapes)


def differentiated(
    run: Run, clipping: ProductClipping, visit: Visit, adjoint: TrainState, values: HparamsAtStep
) -> tuple[Tensor, Pulled]:
    """The training gradient of a step and the derivatives by its inputs, by autograd."""
    mask = run.weights.grad_mask(visit.has_grad)
    vjp = step_vjp(run.update, visit.point, visit.gradient, values.update, mask, adjoint)
    zeros = visit.gradient.new_zeros((1, run.loss.n_learned))
    directions = Directions(vjp.gradient[None], zeros)
    grad, products = run.gradient_and_products(visit.batches, values.loss, directions, "vjp")
    curved, n_clipped = clipping(products.weights[0])
    inner = _inner_products(vjp.adjoint.weights, curved)
    by_loss = dict(zip(run.learned, run.loss.split(products.hparams[0]), strict=True))
    by_owner = {"update": vjp.hypers, "loss": by_loss}
    numbers = [by_owner[owner][name] for owner, name in run.hypers.learned]
    pulled = Pulled(
        vjp.adjoint,
        curved,
        torch.stack(numbers) if numbers else curved.new_zeros(0),
        {name: by_loss[name] for name in run.hypers.tensors},
        torch.cat([grad.loss.double()[None], n_clipped[None], inner.double()]).cpu(),
    )
    return grad.gradient, pulled


def _tolerance(like: Tensor, is_compiled: bool) -> float:
    """Up to which relative difference two results are the same.

    Without a compiler, they are equal, but for the order of sums on devices where it varies. It
    changes the order everywhere, and may so switch a ReLU.
    """
    eps = torch.finfo(like.dtype).eps
    return float(32 * eps**0.5) if is_compiled else 64 * eps


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1
