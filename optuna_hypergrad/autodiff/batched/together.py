"""Training runs of several participants, computed as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from torch import Tensor

from optuna_hypergrad.autodiff.batched.batches import StackedBatches
from optuna_hypergrad.autodiff.batched.calls import stacked
from optuna_hypergrad.autodiff.batched.participants import Participant
from optuna_hypergrad.autodiff.batched.request import Request
from optuna_hypergrad.autodiff.batched.reverse import StackedReverse
from optuna_hypergrad.autodiff.batched.runs import StackedRuns
from optuna_hypergrad.autodiff.batched.stacked import KnownTraces, NoRunLeft
from optuna_hypergrad.autodiff.growth import AdjointMeter
from optuna_hypergrad.autodiff.loss import Validated
from optuna_hypergrad.autodiff.progress import PRODUCT, Progress
from optuna_hypergrad.autodiff.recompute.memory import metered
from optuna_hypergrad.autodiff.recompute.recomputation import Recomputation
from optuna_hypergrad.autodiff.result import Cost, Hypergradient
from optuna_hypergrad.autodiff.reverse import summed
from optuna_hypergrad.autodiff.step import TrainState


class Plain:
    """Training without derivatives."""

    def __init__(self, runs: StackedRuns, batches: StackedBatches) -> None:
        self._runs, self._batches = runs, batches
        self.point = TrainState(runs.weights.read(), ())
        self.losses = self.point.weights.new_empty((runs.steps, len(runs.runs)))

    def train(self) -> Iterator[Tensor]:
        """Take all steps; yields the losses of each."""
        self.point = self._runs.begin()
        for step in range(self._runs.steps):
            values = self._runs.hypers.at(step)
            grad = self._runs.gradient(self._batches.take(), values.loss)
            self.losses[step] = grad.loss
            self.point = self._runs.step(step, self.point, grad, values.update)
            yield grad.loss


class Together:
    """Runs of the same ``shape``, whose threads wait.

    Args:
        participants: The threads.
        known: Traces of earlier runs of this shape.
    """

    def __init__(self, participants: Sequence[Participant], known: KnownTraces) -> None:
        self._known = known
        self._requests = [one.request for one in participants if one.request is not None]
        self._runs = StackedRuns([one.run for one in self._requests], participants, known)
        self._batches = StackedBatches([one.data for one in self._requests], self._runs)
        first = self._requests[0]
        self._is_learning = first.run.hypers.is_learning
        self._trainer: Plain | Recomputation = Plain(self._runs, self._batches)
        if self._is_learning:
            n = len(participants)
            memory = None if first.memory is None else first.memory * n
            self._trainer = Recomputation(self._runs, self._batches, first.store, memory, n)

    def compute(self) -> list[Hypergradient | Exception]:
        """The result of each run, or the exception that ended it."""
        found: list[Hypergradient | None] = [None for _ in self._requests]
        is_shown = any(one.progress for one in self._requests)
        with metered(self._runs.weights.device) as cost, ExitStack() as stack:
            bar = stack.enter_context(Progress()) if is_shown else None
            try:
                self._train(bar)
                found = self._results(bar)
            except NoRunLeft:
                pass  # each has its own exception
            finally:
                self._finish()
        n = len(found)
        share = Cost(cost.seconds / n, None if cost.bytes is None else cost.bytes // n)
        pairs = enumerate(found)
        return [
            self._runs.errors[i] if one is None else replace(one, cost=share) for i, one in pairs
        ]

    def _train(self, bar: Progress | None) -> None:
        if bar is not None:
            bar.expect(self._runs.steps * (2.0 + PRODUCT if self._is_learning else 1.0))
            bar.phase("training", self._runs.steps)
        for step, losses in enumerate(self._trainer.train()):
            if bar is not None:
                bar.step(1.0, losses.mean())
            for i, request in enumerate(self._requests):
                if request.on_step is not None:
                    self._report(i, request, step, losses)

    def _report(self, i: int, request: Request, step: int, losses: Tensor) -> None:
        """Call a run's ``on_step``, which may end the run and read its model."""
        on_step, run, point = request.on_step, request.run, self._trainer.point.of(i)
        assert on_step is not None

        def report() -> None:
            self._runs.set_model(i)
            versions, modules = run.versions(), [*run.model.modules()]
            modes = [module.training for module in modules]
            on_step(step, float(losses[i]))
            run.check_unchanged(step, point, versions)
            if [module.training for module in modules] != modes:
                raise ValueError(
                    "on_step: it changed the mode of a module, which runs of a batch have in "
                    "common. Use study.optimize, or choose the mode in loss_fn by the batch."
                )

        self._runs.call(i, report, draws=False)

    def _results(self, bar: Progress | None) -> list[Hypergradient | None]:
        """Results of all runs; None for those that have failed."""
        validated = [self._validated(i, one) for i, one in enumerate(self._requests)]
        if isinstance(self._trainer, Recomputation):
            return self._differentiated(self._trainer, validated, bar)
        losses = self._trainer.losses.T.tolist()
        return [
            None
            if one is None
            else Hypergradient(
                {}, one[0].loss, losses[i], 0, "forward", state=self._trainer.point.of(i).state
            )
            for i, one in enumerate(validated)
        ]

    def _validated(self, i: int, request: Request) -> tuple[Validated, TrainState] | None:
        """A run's validation and the adjoint at its end."""
        run, point = request.run, self._trainer.point.of(i)
        return self._runs.alone(
            i,
            lambda: run.validate(
                point, request.validation, request.validation_loss_fn, request.statistics
            ),
        )

    def _differentiated(
        self,
        recomputation: Recomputation,
        validated: Sequence[tuple[Validated, TrainState] | None],
        bar: Progress | None,
    ) -> list[Hypergradient | None]:
        runs, requests = self._runs, self._requests
        weights, *state = stacked([None if one is None else one[1].tensors for one in validated])
        adjoint = TrainState(weights, tuple(state))
        meters = [AdjointMeter(one.estimate, runs.steps) for one in requests]
        reverse = StackedReverse(
            runs, recomputation, requests[0].clip_products, meters, self._known.step_back
        )
        derivatives = reverse.backward(adjoint, bar)
        losses = recomputation.losses.T.tolist()
        found: list[Hypergradient | None] = []
        for i, (request, one) in enumerate(zip(requests, validated, strict=True)):
            ended = None if one is None else one[0]
            result = runs.call(
                i,
                lambda i=i, ended=ended, request=request: summed(  # type: ignore[misc]
                    request.run, ended, derivatives[i], request.average
                ),
            )
            found.append(
                None
                if result is None
                else replace(
                    result,
                    train_losses=losses[i],
                    growth=None if derivatives[i] is None else meters[i].growth(request.run.hypers),
                    clipped=reverse.clipped(i),
                    recomputed=recomputation.n_recomputed,
                    kept_bytes=recomputation.peak_bytes // len(requests),
                    state=recomputation.point.of(i).state,
                )
            )
        return found

    def _finish(self) -> None:
        """Give the models the weights that were validated, and their buffers."""
        for i, request in enumerate(self._requests):
            self._runs.set_model(i)
            request.run.finish(self._trainer.point.of(i))
