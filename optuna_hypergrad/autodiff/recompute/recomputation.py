"""The steps of a run, forwards and then once more from the last to the first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.data import Batch, nbytes
from optuna_hypergrad.autodiff.generators import GeneratorStates
from optuna_hypergrad.autodiff.loss import LossGrad
from optuna_hypergrad.autodiff.recompute.comparison import check_recomputed
from optuna_hypergrad.autodiff.recompute.memory import CheckpointStore, trim_heap
from optuna_hypergrad.autodiff.recompute.plans import (
    FAN,
    SMALL,
    Binomial,
    Levels,
    Plan,
    plan_within,
)
from optuna_hypergrad.autodiff.recompute.records import (
    Checkpoint,
    Placement,
    StepBatches,
    StepRecord,
    Steps,
    Visit,
)
from optuna_hypergrad.autodiff.snapshot import Snapshot, Snapshotter
from optuna_hypergrad.autodiff.step import TrainState

_TRIM = 32  # steps between two calls of trim_heap, which takes milliseconds


class Recomputation:
    """A run whose steps are visited backwards, in bounded memory.

    Args:
        run: The run.
        batches: Its batches.
        store: For checkpoints and gradients.
        memory: Bytes that the store may take; see ``plan_within`` for None.
        n_runs: How many runs this is; memory that is not given grows with them.
    """

    def __init__(
        self,
        run: Steps,
        batches: StepBatches,
        store: CheckpointStore,
        memory: int | None,
        n_runs: int = 1,
    ) -> None:
        self._run, self._batches, self._store, self._memory = run, batches, store, memory
        self._n_runs, self._small = n_runs, n_runs * SMALL
        self._snapshotter = Snapshotter(run.model, run.weights.device, batches.generators)
        self._checkpoints: list[Checkpoint] = []
        self._records: dict[int, StepRecord] = {}
        self._plan: Plan = Levels(0, run.steps, 1)  # until the first step shows the sizes
        self._keeps_points = False
        self._n_trained = 0
        # States of the generators that the last visited step began with, and that it ends with.
        self._visited: GeneratorStates | None = None
        self._at_rest: GeneratorStates | None = None
        self.point = self._before = TrainState(run.weights.read(), ())
        weights = self.point.weights
        self.losses = weights.new_empty((run.steps, *weights.shape[:-1]))
        self.n_recomputed = 0

    @property
    def n_to_recompute(self) -> int:
        """Number of steps that will be computed again; known from the second step on."""
        return self._plan.recomputed(self._run.steps)

    @property
    def peak_bytes(self) -> int:
        """Peak of the memory of checkpoints and gradients."""
        return self._store.peak

    def train(self) -> Iterator[Tensor]:
        """Train; yields the training loss of every step, when ``point`` is what follows it."""
        self.point = self._run.begin()
        start = self._checkpoint(0, self._snapshotter.now())
        self._checkpoints = [start]
        yield self._take_step(0, start.snapshot)
        self._plan = self._new_plan(start)
        placement = self._placement(self._plan, 0, self._run.steps)
        if placement.recorded > 0:
            self._records.clear()
        yield from self._take_steps(1, self._run.steps, placement, start.snapshot)

    def backward(
        self, on_recomputed: Callable[[], None] | None = None
    ) -> Generator[Visit, None, None]:
        """Visit all steps from the last to the first; afterwards, all is as the training left it.

        Args:
            on_recomputed: Called for each step that is computed again.

        Raises:
            RecomputeError: If such a step comes out differently.
        """
        end, after = self.point, self._snapshotter.now()
        try:
            if isinstance(self._plan, Binomial):
                yield from self._backward_binomially(self._plan, on_recomputed)
            else:
                checkpoints = self._checkpoints
                yield from self._backward(self._plan, checkpoints, self._run.steps, on_recomputed)
        finally:
            self.point = end
            self._restore(end, after)

    def _backward(
        self,
        plan: Levels,
        checkpoints: list[Checkpoint],
        stop: int,
        on_recomputed: Callable[[], None] | None,
    ) -> Iterator[Visit]:
        """From ``stop`` back to the first of the checkpoints; the last piece is recorded."""
        end = checkpoints.pop()
        yield from self._visit_recorded(end.step, stop, end.point)
        while checkpoints:
            start = checkpoints.pop()
            # Only this list refers to a checkpoint while its piece is visited.
            between = self._checkpoints = [start]
            self._recompute(
                start, end.step, self._placement(plan, start.step, end.step), on_recomputed
            )
            self._check(end.step, self.point.weights, end.point.weights)
            stop, end = end.step, start
            yield from self._backward(plan, between, stop, on_recomputed)

    def _backward_binomially(
        self, plan: Binomial, on_recomputed: Callable[[], None] | None
    ) -> Iterator[Visit]:
        """Over all steps; the last one is recorded, and ``_before`` the point before it."""
        yield self._visit(self._run.steps - 1, self._before)
        for stop in range(self._run.steps - 1, 0, -1):
            while self._checkpoints[-1].step >= stop:
                self._checkpoints.pop()
            start = self._checkpoints[-1]
            self._recompute(start, stop, self._placement(plan, start.step, stop), on_recomputed)
            yield self._visit(stop - 1, self._before)

    def _placement(self, plan: Plan, first: int, stop: int) -> Placement:
        """What to store from a checkpoint before ``first`` to ``stop``."""
        if isinstance(plan, Binomial):
            return Placement(plan.between(first, stop, len(self._checkpoints)), stop - 1)
        _, *checkpoints = pieces = plan.pieces(first, stop)
        return Placement(checkpoints, pieces[-1])

    def _recompute(
        self,
        start: Checkpoint,
        stop: int,
        placement: Placement,
        on_recomputed: Callable[[], None] | None,
    ) -> None:
        """Compute the steps from a checkpoint to ``stop`` again."""
        self._visited = self._at_rest = None
        self._batches.seek(start.step)  # draws random numbers, which are restored afterwards
        self._restore(start.point, start.snapshot)
        self.point = start.point
        for _ in self._take_steps(start.step, stop, placement, start.snapshot):
            self.n_recomputed += 1
            if on_recomputed is not None:
                on_recomputed()

    def restore(self, visit: Visit) -> None:
        """Put the model and the generators back as they were when the step was visited."""
        self._restore(visit.point, visit.snapshot)
        if self._batches.is_indexed:
            self._batches.at(visit.step)  # which may draw random numbers

    def _visit_recorded(self, first: int, stop: int, point: TrainState) -> Iterator[Visit]:
        """Visit the recorded steps from ``stop`` back to ``first``, where ``point`` is known.

        The points between, if they are not kept, follow from the recorded gradients, without the
        model: those where one of ``FAN`` parts begins are computed first, and then those of each
        part likewise.
        """
        if self._keeps_points:
            for step in reversed(range(first + 1, stop)):
                yield self._visit(step, self._records[step].point)
            stop = first + 1
        if stop - first == 1:
            yield self._visit(first, point)
            return
        parts = min(FAN, stop - first)
        starts = [first + (stop - first) * i // parts for i in range(parts)]
        points = [point, *self._points_at(first, point, starts[1:])]
        ends = [*starts[1:], stop]
        size = sum(one.nbytes for one in points[1:])
        self._store.count(size)
        try:
            while points:
                yield from self._visit_recorded(starts.pop(), ends.pop(), points.pop())
        finally:
            self._store.count(-size)

    def _points_at(self, first: int, point: TrainState, stops: list[int]) -> Iterator[TrainState]:
        """The points before some later steps, from recorded gradients."""
        run = self._run
        for step in range(first, stops[-1]):
            record, values = self._records[step], run.hypers.at(step).update
            point = run.updated(point, record.gradient, record.has_grad, values)
            if step + 1 in stops:
                yield point

    def _visit(self, step: int, point: TrainState) -> Visit:
        record = self._records.pop(step)
        self._trim_heap(step)
        generators = record.snapshot.generators
        self._restore(point, record.snapshot, generators=generators is not self._at_rest)
        # The step draws nothing if the next one began with the same states.
        self._at_rest = generators if generators is self._visited else None
        self._visited = generators
        batches = self._batches.at(step) if record.batches is None else record.batches
        return Visit(step, point, record.gradient, record.has_grad, batches, record.snapshot)

    def _take_steps(
        self, first: int, stop: int, placement: Placement, before: Snapshot
    ) -> Iterator[Tensor]:
        """Steps from ``point``, stored as ``placement`` says; ``before`` is an earlier snapshot."""
        for step in range(first, stop):
            is_recorded = step >= placement.recorded
            if is_recorded or step in placement.checkpoints:
                before = self._snapshotter.now(before)
            if step in placement.checkpoints:
                self._checkpoints.append(self._checkpoint(step, before))
            yield self._take_step(step, before if is_recorded else None)

    def _take_step(self, step: int, before: Snapshot | None) -> Tensor:
        """One step from ``point``, recorded if a snapshot is given."""
        run = self._run
        self._trim_heap(step)
        batches = self._batches.take()
        if before is not None and not self._batches.is_indexed:
            before = self._snapshotter.now(before)  # batches that are stored are not drawn again
        values = run.hypers.at(step)
        grad = run.gradient(batches, values.loss)
        if step == self._n_trained:
            self.losses[step] = grad.loss
            self._n_trained += 1
        else:
            self._check(step, grad.loss.to(self.losses.dtype), self.losses[step])
        if before is not None:
            self._record(step, grad, before, batches)
        if isinstance(self._plan, Binomial):
            self._before = self.point
        self.point = run.step(step, self.point, grad, values.update)
        return grad.loss

    def _check(self, step: int, found: Tensor, recorded: Tensor) -> None:
        """Raise a RecomputeError if one of the runs came out differently."""
        rows = zip(found, recorded, strict=True) if self._n_runs > 1 else [(found, recorded)]
        for pair in rows if not torch.equal(found, recorded) else ():
            check_recomputed(step, *pair)

    def _record(
        self, step: int, grad: LossGrad, before: Snapshot, batches: tuple[Batch, ...]
    ) -> None:
        last = self._records.get(step - 1)
        extra = before.bytes_beside(last.snapshot) if last is not None else 0
        taken = None if self._batches.is_indexed else batches
        extra += 0 if taken is None else sum(map(nbytes, taken))
        point = self.point.tensors if self._keeps_points else ()
        stored = self._store.put(grad.gradient, *point, extra_bytes=extra)
        self._records[step] = StepRecord(stored, grad.has_grad, before, taken)

    def _checkpoint(self, step: int, snapshot: Snapshot) -> Checkpoint:
        stored = self._store.put(*self.point.tensors)
        return Checkpoint(step, stored, snapshot)

    def _restore(self, point: TrainState, snapshot: Snapshot, *, generators: bool = True) -> None:
        self._run.weights.write(point.weights)
        self._snapshotter.restore(snapshot, generators=generators)

    def _trim_heap(self, step: int) -> None:
        is_on_cpu = self._run.weights.device.type == "cpu"
        if step % _TRIM == 0 and is_on_cpu and not self._keeps_points:
            trim_heap()

    def _new_plan(self, start: Checkpoint) -> Plan:
        """The plan for the sizes that the first step shows."""
        snapshot = self._snapshotter.now(start.snapshot).bytes_beside(start.snapshot)
        record = snapshot + self._records[0].stored.bytes
        memory = self._memory
        if memory is None and self._store.place == "disk":
            memory = sys.maxsize  # every gradient is stored
        steps, point = self._run.steps, self.point.nbytes
        everything = steps * (record + point)
        self._keeps_points = everything <= (
            self._small if memory is None else min(self._small, memory)
        )
        return plan_within(memory, steps, snapshot + point, record, start.stored.bytes)
