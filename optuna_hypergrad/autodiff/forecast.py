"""What forward and reverse mode will cost, foretold from single steps at the first weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Literal

from optuna_hypergrad.autodiff.data import generators_of, is_batch, once_only
from optuna_hypergrad.autodiff.loss import Batch
from optuna_hypergrad.autodiff.recompute.plan import planned
from optuna_hypergrad.autodiff.result import Cost, metered, timed
from optuna_hypergrad.autodiff.run import Run
from optuna_hypergrad.autodiff.second_order.hvp import Directions
from optuna_hypergrad.autodiff.snapshot import GeneratorStates, Snapshotter
from optuna_hypergrad.autodiff.step import TrainState, step_jvp, step_vjp
from optuna_hypergrad.autodiff.stream import Stream, looking_ahead
from optuna_hypergrad.autodiff.tangents import Columns

_ROUNDS, _ROWS = 3, 4

Check = Callable[[TrainState, Iterable[Batch]], object]  # validates the weights on batches


@dataclass(frozen=True)
class Forecast:
    """What both modes were expected to cost: training, validation and going back."""

    forward: Cost
    """Of forward mode, all of the run."""
    reverse: Cost
    """Of reverse mode; infinite seconds where it cannot be done in the memory that it may keep."""

    @property
    def faster(self) -> Literal["forward", "reverse"]:
        """The mode that takes less time."""
        return "forward" if self.forward.seconds <= self.reverse.seconds else "reverse"


def foretold(
    run: Run,
    stream: Stream,
    validation: Batch | Iterable[Batch],
    check: Check,
    memory: int | None,
) -> Forecast:
    """Take single steps at the first weights, and multiply.

    The model, the batches and the generators are as before afterwards.

    Args:
        run: The run, before its first step.
        stream: Its batches.
        validation: What it is validated on; not counted where it has no length or can be gone
            through only once.
        check: Validates on batches.
        memory: Bytes that reverse mode may keep; None for its default. Where they are too few,
            reverse mode takes for ever.
    """
    with looking_ahead(run, stream) as snapshotter:
        trial = _Trial(run, stream, snapshotter)
        checked = trial.check(validation, check)
        return Forecast(trial.forward(checked), trial.reverse(checked, memory))


class _Trial:
    """Single steps at the first weights; each is taken once before it is measured."""

    def __init__(self, run: Run, stream: Stream, snapshotter: Snapshotter) -> None:
        self._run, self._stream, self._snapshotter = run, stream, snapshotter
        self._before, self._values = snapshotter.now(), run.at(0)
        self._point = run.begin()
        self._batches = stream.take()
        self._plain()
        # What the first step leaves is what later ones carry: the update has a state now.
        self._point = run.moved(self._point, self._slope, self._values.update)

    def check(self, validation: Batch | Iterable[Batch], check: Check) -> Cost:
        """The cost of validation, from that of its first batch."""
        if is_batch(validation, self._run.of_tensors):
            return self._cost(lambda: check(self._point, validation))
        if once_only(validation) or not isinstance(validation, Sized):
            return Cost(0.0, 0)
        if not len(validation) or not isinstance(validation, Iterable):
            return Cost(0.0, 0)  # the run will complain
        before = GeneratorStates.now(self._run.weights.device, list(generators_of(validation)))
        first = [next(iter(validation))]
        before.restore()
        one = self._cost(lambda: check(self._point, first))
        return Cost(one.seconds * len(validation), one.bytes)

    def forward(self, checked: Cost) -> Cost:
        """The cost of forward mode: affine in the number of columns at each step."""
        run, count = self._run, len(self._run.hypers.names)
        run.prepare(self._batches[0], count)
        many = count if run.at_once else min(count, _ROWS)
        one = several = self._cost(partial(self._ahead, 1))
        if many > 1:
            several = self._cost(partial(self._ahead, many))
        row = (several.seconds - one.seconds) / max(many - 1, 1)
        columns = Columns(run.hypers, 0.0, "leading")
        rows = sum(len(columns.advance(step).rows) for step in range(run.steps))
        seconds = run.steps * (one.seconds - row) + rows * row + checked.seconds
        more = count * self._point.bytes + _known(checked)
        of_row = max(_known(several) - _known(one), 0) // max(many - 1, 1)
        step = _known(one) + (count - 1) * of_row
        return Cost(seconds, max(step, more) if _all_known(one, several, checked) else None)

    def reverse(self, checked: Cost, memory: int | None) -> Cost:
        """The cost of reverse mode: training, steps run again, and going back."""
        run = self._run
        run.prepare(self._batches[0], 1)
        plain, back, move = map(self._cost, (self._plain, self._back, self._move))
        beside = self._snapshotter.now(self._before).bytes_beside(self._before)
        record = beside + self._slope.gradient.nbytes + self._stream.kept_bytes(self._batches)
        checkpoint = beside + self._point.bytes
        try:
            plan = planned(run.steps, checkpoint, record, memory)
        except ValueError:  # it cannot be done in so little memory
            return Cost(math.inf, None)
        runs = run.steps + plan.replayed(run.steps)
        going_back = back.seconds + plan.divisions * move.seconds
        seconds = runs * plain.seconds + run.steps * going_back + checked.seconds
        peak = max(_known(back), _known(plain), _known(checked))
        kept = plan.kept(checkpoint, record)
        return Cost(seconds, kept + peak if _all_known(back, plain, checked) else None)

    def _ahead(self, count: int) -> None:
        """One step of forward mode with so many columns."""
        run, point, values = self._run, self._point, self._values
        rows = TrainState(
            point.weights.new_ones((count, len(point.weights))),
            tuple(part.new_ones((count, *part.shape)) for part in point.state),
        )
        own = point.weights.new_ones((count, len(run.learned)))
        slope, products = run.curvature(
            self._batches, values.loss, Directions(rows.weights, own), "jvp"
        )
        slopes = {name: own.new_ones(count) for name in run.hypers.learned_by("update")}
        step_jvp(
            run.update, point, rows, slope.gradient, products.weights, values.update, slopes, None
        )

    def _plain(self) -> None:
        """The training gradient of one step, and what is read beside it."""
        self._snapshotter.now(self._before)
        self._slope = self._run.slope(self._batches, self._values.loss)

    def _back(self) -> None:
        """One step back."""
        run, point = self._run, self._point
        gradient = self._slope.gradient
        back = step_vjp(run.update, point, gradient, self._values.update, None, point)
        own = gradient.new_zeros((1, len(run.learned)))
        run.curvature(self._batches, self._values.loss, Directions(back.gradient[None], own), "vjp")

    def _move(self) -> None:
        """One step of the update alone."""
        self._run.moved(self._point, self._slope, self._values.update)

    def _cost(self, work: Callable[[], object]) -> Cost:
        device = self._run.weights.device
        with metered(device) as cost:
            work()
        return Cost(median(timed(work, device, _ROUNDS)), cost.bytes)


def _known(cost: Cost) -> int:
    return cost.bytes or 0


def _all_known(*costs: Cost) -> bool:
    return all(cost.bytes is not None for cost in costs)
