"""A training run, gone through once and then again piece by piece."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from optuna_hypergrad.autodiff.loss import Batch
from optuna_hypergrad.autodiff.recompute.plan import Plan, planned
from optuna_hypergrad.autodiff.recompute.tape import Checkpoint, Keeper, Record, Tape, check_replay
from optuna_hypergrad.autodiff.result import give_back
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.snapshot import Snapshot, Snapshotter
from optuna_hypergrad.autodiff.step import TrainState, moved
from optuna_hypergrad.autodiff.stream import Stream

_TIDY = 32  # steps after which what was freed is given back; that takes milliseconds


class Player:
    """Takes the steps of a run, and keeps what going back over them needs.

    Args:
        run: The run.
        stream: Its batches.
        keeper: Where checkpoints and records are kept.
        memory: Bytes that these may take; None for what ``planned`` chooses.
    """

    def __init__(self, run: Run, stream: Stream, keeper: Keeper, memory: int | None) -> None:
        self._run, self._stream = run, stream
        self._keeper, self._memory = keeper, memory
        self.tape = Tape(keeper, stream)
        self._snapshotter = Snapshotter(run.objective.model, run.weights.device, stream.generators)
        self._new = 0  # the first step that has yet to be taken
        self._plan = Plan(0, 0, 1)  # made after the first step, when sizes are known
        self.losses = run.weights.read().new_empty(run.steps)  # of the first time
        self.replayed = 0

    def train(self) -> Iterator[Tensor]:
        """The run for the first time; yields the training loss of every step.

        Afterwards ``marks`` holds the checkpoints, and ``point`` what the run arrived at.
        """
        start = self.tape.checkpoint(0, self._run.begin(), self._snapshotter.now())
        self.marks, self.point = [start], start.point
        yield self._step(0, start.snapshot)
        self._plan = self._planned(start)
        pieces = self._plan.pieces(0, self._run.steps)
        if pieces[-1] > 0:
            self.tape.steps.clear()
        yield from self._go_on(1, self._run.steps, pieces)

    def replay(
        self, start: Checkpoint, end: Checkpoint, spend: Callable[[float], None]
    ) -> list[Checkpoint]:
        """From one checkpoint to the next again; gives the checkpoints between them.

        Args:
            start: Where to begin.
            end: Where to arrive.
            spend: Told of each step, which costs 1.

        Raises:
            ReplayError: If it arrives elsewhere than before.
        """
        self._take_up(start.step, start.point, start.snapshot)
        self.marks, self.point = [start], start.point
        pieces = self._plan.pieces(start.step, end.step)
        for _ in self._go_on(start.step, end.step, pieces):
            self.replayed += 1
            spend(1.0)
        check_replay(end.step, self.point.weights, end.point.weights)
        return self.marks

    def revisit(self, step: int, point: TrainState, record: Record) -> tuple[Batch, ...]:
        """Put everything back as it was before a recorded step; gives its batches."""
        self._tidy(step)
        if record.batches is not None:
            self.leave(point, record.snapshot)
            return record.batches
        self._take_up(step, point, record.snapshot)
        return self._stream.take()

    def points(self, first: int, point: TrainState, stops: list[int]) -> Iterator[TrainState]:
        """The points at some later steps, from recorded gradients, without the model."""
        for step in range(first, stops[-1]):
            record, values = self.tape.steps[step], self._run.at(step).update
            reached = self._run.weights.grad_mask(record.has_grad)
            point = moved(self._run.update, point, record.gradient, values, reached)
            if step + 1 in stops:
                yield point

    def leave(self, point: TrainState, snapshot: Snapshot) -> None:
        """Put the model and the generators into a state."""
        self._run.weights.write(point.weights)
        self._snapshotter.restore(snapshot)

    @contextmanager
    def holding(self, points: list[TrainState]) -> Iterator[None]:
        """Count some points as kept for the time being."""
        size = sum(point.bytes for point in points)
        self._keeper.count(size)
        try:
            yield
        finally:
            self._keeper.count(-size)

    @property
    def to_replay(self) -> int:
        """Steps that will be run again, known from the second step on."""
        return self._plan.replayed(self._run.steps)

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were kept at a time."""
        return self._keeper.peak

    def now(self) -> Snapshot:
        """The present snapshot."""
        return self._snapshotter.now()

    def _go_on(self, first: int, stop: int, pieces: list[int]) -> Iterator[Tensor]:
        """Steps from the present point, with a checkpoint before each piece but the first."""
        before = self.marks[0].snapshot
        for step in range(first, stop):
            recorded = step >= pieces[-1]
            if recorded or step in pieces:
                before = self._snapshotter.now(before)
            if step in pieces[1:]:
                self.marks.append(self.tape.checkpoint(step, self.point, before))
            yield self._step(step, before if recorded else None)

    def _step(self, step: int, before: Snapshot | None) -> Tensor:
        """One step on from the present point, recorded if its snapshot are given."""
        self._tidy(step)
        batches = self._stream.take()
        if before is not None and not self._stream.by_number:
            before = self._snapshotter.now(before)  # the batches are kept, and not drawn again
        if self._new == 0:
            self._run.prepare(batches[0], 1)
        values = self._run.at(step)
        slope = self._run.slope(batches, values.loss)
        self._run.check_weights(step, self.point, "loss_fn")
        self._check(step, slope.loss)
        if before is not None:
            self.tape.record(step, slope, before, batches)
        self.point = self._run.moved(self.point, slope, values.update)
        return slope.loss

    def _check(self, step: int, loss: Tensor) -> None:
        """Notes the loss of a step's first time; a later one has to be the same."""
        if step == self._new:
            self.losses[step] = loss
            self._new += 1
        else:
            check_replay(step, loss.to(self.losses.dtype), self.losses[step])

    def _tidy(self, step: int) -> None:
        if step % _TIDY == 0 and self._run.weights.device.type == "cpu":
            give_back()

    def _take_up(self, step: int, point: TrainState, snapshot: Snapshot) -> None:
        self._stream.seek(step)  # before the generators are put back
        self.leave(point, snapshot)

    def _planned(self, start: Checkpoint) -> Plan:
        """The plan, from the sizes of what the first step left."""
        beside = self._snapshotter.now(start.snapshot).bytes_beside(start.snapshot)
        record = beside + self.tape.steps[0].kept.bytes
        memory = self._memory
        if memory is None and self._keeper.folder is not None:
            memory = sys.maxsize  # on disk, there is room for every gradient
        return planned(self._run.steps, beside + self.point.bytes, record, memory)
