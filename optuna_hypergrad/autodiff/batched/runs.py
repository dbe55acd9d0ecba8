"""R runs as one: the interface of ``Run``, with stacked tensors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from optuna_hypergrad.autodiff.batched.calls import Call, StackedCalls, is_same, stacked
from optuna_hypergrad.autodiff.batched.generators import RunGenerators
from optuna_hypergrad.autodiff.batched.hparams import StackedHparams, StackedValues, tensors_of
from optuna_hypergrad.autodiff.batched.participants import Participant
from optuna_hypergrad.autodiff.batched.stacked import Inputs, KnownTraces, NoRunLeft, StackedWeights
from optuna_hypergrad.autodiff.data import Batch
from optuna_hypergrad.autodiff.loss import LossGrad
from optuna_hypergrad.autodiff.recompute.comparison import RecomputeError, difference
from optuna_hypergrad.autodiff.recording import PLAIN, kind_of
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.step import TrainState
from optuna_hypergrad.autodiff.stop_gradient import StopState
from optuna_hypergrad.autodiff.weights import HasGrad

_SMALL = 1e-5  # difference of losses, relative to the first, that is rounding
RunsBatches = Sequence[tuple[Batch, ...]]  # of one step: the batches of each run
_Found = TypeVar("_Found")


class StackedRuns:
    """R runs of equal shape.

    Args:
        runs: The runs.
        participants: The thread of each.
        known: Traces of earlier runs of the same shape.
    """

    def __init__(
        self, runs: Sequence[Run], participants: Sequence[Participant], known: KnownTraces
    ) -> None:
        self.runs, self._participants = list(runs), list(participants)
        self.steps = runs[0].steps
        self.weights = StackedWeights(runs)
        self.model = nn.Module()  # of the stacked buffers
        for i, buffers in enumerate(zip(*(run.model.buffers() for run in runs), strict=True)):
            self.model.register_buffer(str(i), torch.stack(buffers))
        self.hypers = StackedHparams([run.hypers for run in runs], self.weights.current)
        self._gradients = StackedCalls(self, known.gradient, records_all=True)
        self._updates = StackedCalls(self, known.update, records_all=True)
        self._n_checked = 0
        self._scales: list[Tensor] = []  # absolute losses of the first step, norms of gradients
        self.stops_gradients = False
        """As that of ``TrainingLoss``."""
        self.errors: dict[int, Exception] = {}
        """Exceptions that ended runs."""

    @property
    def generators(self) -> list[RunGenerators]:
        """Random number generators of each run."""
        return [one.generators for one in self._participants]

    def call(self, i: int, function: Callable[[], _Found], *, draws: bool = True) -> _Found | None:
        """Call a function in a run's thread; see ``Participant.call``.

        Its exception ends the run, whose results are None from then on and count as NaN.

        Raises:
            NoRunLeft: If this was the last one.
        """
        if i not in self.errors:
            try:
                return self._participants[i].call(function, draws=draws)
            except Exception as error:
                self.errors[i] = error
                if len(self.errors) == len(self.runs):
                    raise NoRunLeft from error
        return None

    def alone(self, i: int, function: Callable[[], _Found]) -> _Found | None:
        """The same; the run's model is as it is in training."""

        def call() -> _Found:
            self.set_model(i)
            found = function()
            self.runs[i].weights.check_unchanged(self.weights.current[i], "loss_fn")
            with torch.no_grad():
                for buffer, of_all in self._buffers(i):
                    of_all[i] = buffer
            return found

        return self.call(i, call)

    def set_model(self, i: int) -> None:
        """Give a run's model its weights and buffers."""
        self.runs[i].weights.write(self.weights.current[i])
        with torch.no_grad():
            for buffer, of_all in self._buffers(i):
                if not torch.equal(buffer, of_all[i]):  # which may be expanded
                    buffer.copy_(of_all[i])

    def state(self) -> object:
        """Buffers, and states of the generators."""
        states = [one.get_state() for one in self.generators]
        return [buffer.clone() for buffer in self.model.buffers()], states

    def restore(self, state: Any) -> None:
        """Put them back."""
        buffers, states = state
        for buffer, value in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        for one, value in zip(self.generators, states, strict=True):
            one.set_state(value)

    def is_at(self, state: Any) -> bool:
        """Whether the buffers are those of a state, to rounding, and the generators exactly."""
        buffers, states = state
        pairs = zip(self.model.buffers(), buffers, strict=True)
        are_same = all(
            is_same(one, other) if one.is_floating_point() else torch.equal(one, other)
            for rows in pairs
            for one, other in zip(*rows, strict=True)
        )
        now = (one.get_state() for one in self.generators)
        return are_same and all(map(torch.equal, now, states))

    def begin(self) -> TrainState:
        """Set the initial weights; returns them with the initial states."""
        points = [self.call(i, run.begin) for i, run in enumerate(self.runs)]
        weights, *state = stacked([None if one is None else one.tensors for one in points])
        self.weights.write(weights)
        return TrainState(weights, tuple(state))

    def gradient(self, batches: RunsBatches, hypers: StackedValues) -> LossGrad:
        """Losses, shape (R,), and their gradients, shape (R, D)."""
        inputs = self.inputs(batches, hypers)
        expected = self._expected(inputs.kind, batches, hypers)

        def call(i: int) -> Call:
            run, own = self.runs[i], hypers.of(i)

            def function() -> tuple[list[Tensor], HasGrad]:
                grad = run.gradient(batches[i], own)
                return [grad.loss, grad.gradient], grad.has_grad

            return Call(function, self.inputs_of(i, batches, own))

        (losses, gradients), has_grad = self._gradients(*inputs, call)
        if expected is not None:
            i, (loss, *gradient) = expected
            _check("loss", i, losses[i], loss, self._scales[0][i])
            for one in gradient:
                _check("gradient", i, gradients[i], one, self._scales[1][i])
        if not self._scales:
            self._scales = [losses.abs(), gradients.norm(dim=1)]
        return LossGrad(losses, gradients, sum(has_grad, ()))

    def _expected(
        self, kind: Hashable | None, batches: RunsBatches, hypers: StackedValues
    ) -> tuple[int, list[Tensor]] | None:
        """One of the runs and its loss by its function, if a trace is to compute all runs.

        And the gradient, if the loss does not show all that this depends on.
        """
        if not self._gradients.is_known(kind):
            return None
        i, draws = self._n_checked % len(self.runs), self._gradients.draws(kind)
        self._n_checked += 1
        run, generators = self.runs[i], self.generators[i]
        state = generators.get_state() if draws else None

        def expected() -> list[Tensor]:
            self.set_model(i)
            own = hypers.of(i)
            if self.stops_gradients:
                grad = run.gradient(batches[i], own)
                return [grad.loss, grad.gradient]
            values = []
            for batch in batches[i]:
                with run.loss.graph(batch, own, self._first_stops()) as value:
                    values.append(value.detach())
            return [torch.stack(values).mean()]

        found = self.call(i, expected, draws=draws)
        self.stops_gradients |= run.loss.stops_gradients
        if state is not None:
            generators.set_state(state)
        return None if found is None else (i, found)

    def _first_stops(self) -> StopState | None:
        """To find out at the first check of each run whether its loss stops gradients."""
        return StopState() if self._n_checked <= len(self.runs) else None

    def step(
        self, step: int, point: TrainState, grad: LossGrad, hypers: StackedValues
    ) -> TrainState:
        """Take one step."""
        new = self.updated(point, grad.gradient, grad.has_grad, hypers)
        self.weights.write(new.weights)
        return new

    def updated(
        self, point: TrainState, gradient: Tensor, has_grad: HasGrad, hypers: StackedValues
    ) -> TrainState:
        """The points after one step."""
        n = len(self.runs[0].weights.parameters)
        kinds = tuple(len(part.shape) for part in point.state)
        inputs = [*point.tensors, gradient, *hypers.tensors]
        kind = (kinds, has_grad, hypers.constants)

        def call(i: int) -> Call:
            own = hypers.of(i)
            one = point.of(i)
            flags = has_grad[i * n : (i + 1) * n]

            def function() -> tuple[tuple[Tensor, ...], None]:
                return self.runs[i].updated(one, leaf, flags, own).tensors, None

            leaf = gradient[i]
            return Call(function, [*one.tensors, leaf, *tensors_of(own)])

        weights, *state = self._updates(kind, inputs, [True] * len(inputs), call).tensors
        return TrainState(weights, tuple(state))

    def inputs(
        self, batches: RunsBatches, hypers: StackedValues, more: Sequence[Tensor] = ()
    ) -> Inputs:
        """What the loss of a step depends on, and further stacked tensors.

        Weights, buffers, batches, hyperparameters of the loss: as ``inputs_of`` has them.
        """
        by_run = [tree_leaves(one) for one in batches]
        of_batches, shared = [], []
        kinds: list[Hashable] = []
        is_alike = len({len(leaves) for leaves in by_run}) == 1
        for leaves in zip(*by_run, strict=is_alike):
            first = leaves[0]
            if not isinstance(first, Tensor):
                is_alike &= isinstance(first, PLAIN) and all(one == first for one in leaves)
                kinds.append((type(first), first) if is_alike else None)
                continue
            is_shared = all(one is first for one in leaves)
            is_alike &= all(
                isinstance(one, Tensor) and kind_of(one) == kind_of(first) for one in leaves
            )
            if is_alike:
                of_batches.append(first if is_shared else torch.stack(leaves))
                shared.append(is_shared)
                kinds.append((kind_of(first), is_shared))
        own = [*self.weights.by_parameter(), *self.model.buffers()]
        tensors = [*own, *of_batches, *hypers.tensors, *more]
        is_stacked = [True] * len(own) + [not one for one in shared]
        is_stacked += [True] * (len(tensors) - len(is_stacked))
        constants = hypers.constants
        if not is_alike or constants is None:
            return Inputs(None, tensors, is_stacked)
        return Inputs((*kinds, constants), tensors, is_stacked)

    def inputs_of(
        self, i: int, batches: RunsBatches, hypers: Mapping[str, float | Tensor]
    ) -> list[Tensor]:
        """Those of one run alone."""
        given = [*tree_leaves(batches[i]), *hypers.values()]
        own = [*self.runs[i].weights.parameters, *self.runs[i].model.buffers()]
        return [*own, *(one for one in given if isinstance(one, Tensor))]

    def _buffers(self, i: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Buffers of a run's model, each with all runs' values."""
        own, of_all = [*self.runs[i].model.buffers()], [*self.model.buffers()]
        if [one.shape for one in own] != [one.shape[1:] for one in of_all]:
            raise ValueError(
                "model: its buffers change in number or shape during the run. Compute such runs "
                "one by one, by study.optimize."
            )
        return zip(own, of_all, strict=True)


def _check(name: str, i: int, found: Tensor, expected: Tensor, scale: Tensor) -> None:
    """Raise a RecomputeError if a result of a run is not what its function gives."""
    error = difference(found, expected)
    is_small = float((found - expected).norm()) <= _SMALL * float(scale)
    if not error <= torch.finfo(found.dtype).eps ** 0.5 and not is_small:
        raise RecomputeError(
            f"the {name} of run {i} of a batch differs from what the operations of an earlier step "
            f"give (relative difference {error:.1e}). It depends on something that is not in the "
            "model's weights and buffers, the batch or the random number generators: a counter, "
            "say. Compute such runs one by one, by study.optimize."
        )
