"""Which steps of a run to keep, for how much memory, and how often others are run again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

GENEROUS = 384 * 2**20  # bytes; kept unasked only if that spares a third of the steps
FAN = 8  # into how many parts the steps of which gradients are kept are divided on the way back


@dataclass(frozen=True)
class Plan:
    """Checkpoints and records of a run.

    A *checkpoint* is the weights and the update's state at the first step of a piece of the run;
    a *record* is the gradient of one step, from which the update goes on without the model. A
    stretch of more than ``records`` steps is cut into ``checkpoints`` pieces of equal length and
    a last one that is recorded as it is run; the pieces are then run again, the last one first,
    and cut again where they are too long. With k levels, a stretch of
    r(k) = checkpoints · r(k − 1) + records steps can be gone back, r(1) = records.

    Args:
        checkpoints: Pieces that a stretch is cut into, besides the last one.
        records: Steps of which gradients can be kept at once.
        levels: k; each level beyond the first runs steps at most once more.
    """

    checkpoints: int
    records: int
    levels: int

    def pieces(self, first: int, stop: int) -> list[int]:
        """The first steps of the pieces of a stretch; the last piece is the one recorded.

        Example:
            >>> Plan(checkpoints=3, records=4, levels=2).pieces(0, 16)
            [0, 4, 8, 12]
            >>> Plan(checkpoints=3, records=4, levels=2).pieces(4, 8)
            [4]
        """
        before = stop - first - self.records
        if before <= 0:
            return [first]
        pieces = min(self.checkpoints, before)
        return [first + before * i // pieces for i in range(pieces)] + [stop - self.records]

    def replayed(self, steps: int) -> int:
        """How many steps of a run are run again, those run twice again counted twice.

        Example:
            >>> Plan(checkpoints=3, records=4, levels=2).replayed(16)
            12
        """
        starts = [*self.pieces(0, steps), steps]
        lengths = [after - start for start, after in pairwise(starts)]
        return sum(length + self.replayed(length) for length in lengths[:-1])

    @property
    def divisions(self) -> int:
        """How often the update takes each recorded step again on the way back, at most."""
        return _divisions(self.records)

    def kept(self, checkpoint: int, record: int) -> int:
        """The most bytes that are kept at a time."""
        between = (self.levels - 1) * self.checkpoints * checkpoint
        return between + _bytes(self.records, checkpoint, record)


def plan(steps: int, checkpoint: int, record: int, memory: int) -> Plan:
    """The plan of fewest levels, and of those with most records, that fits.

    Args:
        steps: Horizon of the run.
        checkpoint: Bytes of one checkpoint.
        record: Bytes of one record.
        memory: Bytes that may be kept.

    Raises:
        ValueError: If ``memory`` is too small for any plan.

    Example:
        >>> plan(10_000, checkpoint=2, record=1, memory=100_000)
        Plan(checkpoints=0, records=10000, levels=1)
        >>> plan(10_000, checkpoint=2, record=1, memory=1_000)
        Plan(checkpoints=10, records=920, levels=2)
    """
    if _bytes(steps, checkpoint, record) <= memory:
        return Plan(0, steps, 1)
    for levels in range(2, steps + 1):
        most = memory // max(checkpoint * (levels - 1), 1)
        for count in range(1, min(most, steps) + 1):
            found = _records(memory - (levels - 1) * count * checkpoint, checkpoint, record, steps)
            if _reach(Plan(count, found, levels)) >= steps:
                return Plan(count, found, levels)
            if found < 1:
                break
        if _records(memory - (levels - 1) * checkpoint, checkpoint, record, steps) < 1:
            break
    raise ValueError(
        f"memory: {memory} bytes are too few for {steps} steps with {checkpoint} bytes a "
        f"checkpoint and {record} bytes a gradient; {least(steps, checkpoint, record)} would do."
    )


def planned(steps: int, checkpoint: int, record: int, memory: int | None) -> Plan:
    """As ``plan``; without ``memory``, ``GENEROUS`` where that spares enough, else ``least``.

    Example:
        >>> planned(1_000, checkpoint=1_400_000, record=700_000, memory=None).replayed(1_000)
        487
        >>> planned(10_000, checkpoint=1_400_000, record=700_000, memory=None).records
        145
    """
    if memory is None:
        spared = _records(GENEROUS, checkpoint, record, steps)
        memory = GENEROUS if spared >= steps / 3 else least(steps, checkpoint, record)
    return plan(steps, checkpoint, record, memory)


def least(steps: int, checkpoint: int, record: int) -> int:
    """Bytes that two levels need: about twice √steps checkpoints and gradients."""
    best = math.isqrt(steps * checkpoint // record + 1)  # where both take the same, but for _bytes
    counts = range(max(best // 4, 1), min(4 * best, steps) + 1)
    pieces = ((count, max(-(-steps // count) - 1, 0)) for count in counts)
    return min(_bytes(count, checkpoint, record) + n * checkpoint for count, n in pieces)


def _bytes(records: int, checkpoint: int, record: int) -> int:
    """What it takes to go back over recorded steps.

    The gradients, FAN − 1 points between them at each division, and the checkpoints at both ends.
    """
    between = records - 1 if records <= FAN else _divisions(records) * (FAN - 1)
    return records * record + (between + 2) * checkpoint


def _divisions(records: int) -> int:
    """How often recorded steps are divided by FAN until single ones are left."""
    divisions = 0
    while FAN**divisions < records:
        divisions += 1
    return divisions


def _records(memory: int, checkpoint: int, record: int, steps: int) -> int:
    """The most steps that can be recorded."""
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        if _bytes(middle, checkpoint, record) <= memory:
            low = middle
        else:
            high = middle - 1
    return low


def _reach(plan: Plan) -> int:
    reach = 0
    for _ in range(plan.levels):
        reach = plan.checkpoints * reach + plan.records
    return reach
