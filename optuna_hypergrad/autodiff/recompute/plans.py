"""Which steps of a run reverse mode stores, and which it computes again, within a memory.

A *checkpoint* is the weights and the update's state before a step; a *record* is the gradient of a
step, from which the update goes on without the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

GENEROUS = 384 * 2**20  # bytes; the default if a third of all gradients fit in
SMALL = 32 * 2**20  # bytes; up to which all weights are kept, too, which saves time
FAN = 8  # parts into which the way back divides steps whose gradients are recorded
_MOST = 30  # times that a run may be computed again


@dataclass(frozen=True)
class Levels:
    """Checkpoints and records of a run, in levels.

    A *checkpoint* is the weights and the update's state at the first step of a piece of the run;
    a *record* is the gradient of one step, from which the update goes on without the model. A
    stretch of more than ``records`` steps is cut into ``checkpoints`` pieces of equal length and a
    last one that is recorded. Then the pieces are computed again, the last one first, and cut again
    if they are too long. k levels reach r(k) = checkpoints · r(k − 1) + records steps,
    r(1) = records.

    Args:
        checkpoints: Number of pieces of a stretch besides the last one.
        records: Number of gradients that are stored at once.
        levels: k; each level beyond the first computes steps at most once more.
    """

    checkpoints: int
    records: int
    levels: int

    @property
    def reach(self) -> int:
        """The most steps that this plan is good for, r(k)."""
        reach = 0
        for _ in range(self.levels):
            reach = self.checkpoints * reach + self.records
        return reach

    def pieces(self, first: int, stop: int) -> list[int]:
        """The first steps of the pieces of a stretch; the last piece is recorded.

        Example:
            >>> Levels(checkpoints=3, records=4, levels=2).pieces(0, 16)
            [0, 4, 8, 12]
            >>> Levels(checkpoints=3, records=4, levels=2).pieces(4, 8)
            [4]
        """
        before = stop - first - self.records
        if before <= 0:
            return [first]
        pieces = min(self.checkpoints, before)
        return [first + before * i // pieces for i in range(pieces)] + [stop - self.records]

    def recomputed(self, steps: int) -> int:
        """Number of steps that are computed again, those computed three times counted twice.

        Example:
            >>> Levels(checkpoints=3, records=4, levels=2).recomputed(16)
            12
        """
        starts = [*self.pieces(0, steps), steps]
        lengths = [after - start for start, after in pairwise(starts)]
        return sum(length + self.recomputed(length) for length in lengths[:-1])


@dataclass(frozen=True)
class Binomial:
    """Binomial checkpointing: the fewest steps computed again for a number of checkpoints.

    The last step is recorded, and gone back over. For the one before, the steps from the last
    checkpoint on are computed again, with new checkpoints in between as long as there is room; and
    so on. n checkpoints reach β(n, r) = (n + r)! / (n! r!) steps, none of which is computed more
    than r times again.

    Args:
        checkpoints: n, that of the first step included.

    Reference:
        Griewank and Walther, "Algorithm 799: revolve", 2000.
    """

    checkpoints: int

    def between(self, first: int, stop: int, held: int) -> list[int]:
        """The steps of new checkpoints on the way from ``first``, where there is one, to ``stop``.

        Args:
            first: The first step.
            stop: The step after the last.
            held: Number of checkpoints that are stored.

        Example:
            >>> Binomial(checkpoints=3).between(0, 10, held=1)
            [4, 7]
        """
        steps = []
        for free in range(self.checkpoints - held, 0, -1):
            first += _first_part(stop - first, free + 1)
            if first >= stop - 1:
                break
            steps.append(first)
        return steps

    def recomputed(self, steps: int) -> int:
        """Number of steps that are computed again, each counted as often as it is.

        Example:
            >>> Binomial(checkpoints=27).recomputed(10_000), Binomial(10).recomputed(10_000)
            (35505, 57624)
        """
        r = _repetitions(steps, self.checkpoints)
        return r * steps - _reach(self.checkpoints + 1, r - 1)


Plan = Levels | Binomial


def _reach(checkpoints: int, repetitions: int) -> int:
    """β(n, r): the steps that n checkpoints reach if none is computed again more than r times."""
    return math.comb(checkpoints + repetitions, checkpoints) if repetitions >= 0 else 0


def _repetitions(steps: int, checkpoints: int) -> int:
    """The least r with β(n, r) ≥ ``steps``."""
    r = 0
    while _reach(checkpoints, r) < steps:
        r += 1
    return r


def _first_part(steps: int, checkpoints: int) -> int:
    """Steps from a checkpoint to the next one, of ``checkpoints`` that both count among."""
    r = _repetitions(steps, checkpoints)
    longest = _reach(checkpoints, r - 1)
    return max(min(longest, steps - _reach(checkpoints - 1, r - 1)), 1)


def plan(memory: int, steps: int, checkpoint: int, record: int, start: int) -> Plan:
    """The plan that computes the fewest steps again, of those that fit in memory.

    Args:
        memory: Bytes to use at most.
        steps: Number of training steps.
        checkpoint: Bytes of one checkpoint.
        record: Bytes of one record.
        start: Bytes of the first checkpoint, before the update has a state.

    Raises:
        ValueError: If ``memory`` is too small for any plan.

    Example:
        >>> plan(100_000, steps=10_000, checkpoint=2, record=1, start=1)
        Levels(checkpoints=0, records=10000, levels=1)
        >>> plan(1_000, steps=10_000, checkpoint=2, record=1, start=1)
        Levels(checkpoints=10, records=920, levels=2)
        >>> plan(20, steps=10_000, checkpoint=2, record=1, start=1)
        Binomial(checkpoints=10)
    """
    found: list[Plan] = [*_levels(memory, steps, checkpoint, record)]
    count = min(1 + (memory - record - start) // checkpoint, steps)
    if count > 0 and Binomial(count).recomputed(steps) <= _MOST * steps:
        found.append(Binomial(count))
    if found:
        return min(found, key=lambda one: one.recomputed(steps))
    raise ValueError(
        f"memory: {memory} bytes are too few for {steps} steps with {checkpoint} bytes a "
        f"checkpoint and {record} bytes a gradient; {least(steps, checkpoint, record)} would do, "
        "and mode='forward' needs none."
    )


def _levels(memory: int, steps: int, checkpoint: int, record: int) -> Iterator[Levels]:
    """That with the fewest levels, and of these with the most records, if there is one."""
    if _record_bytes(steps, checkpoint, record) <= memory:
        yield Levels(0, steps, 1)
        return
    for levels in (2, 3):  # beyond, binomial checkpointing is better
        most = memory // max(checkpoint * (levels - 1), 1)
        for count in range(1, min(most, steps) + 1):
            left = memory - (levels - 1) * count * checkpoint
            found = Levels(count, _most_records(left, steps, checkpoint, record), levels)
            if found.reach >= steps:
                yield found
                return
            if found.records < 1:
                break


def plan_within(memory: int | None, steps: int, checkpoint: int, record: int, start: int) -> Plan:
    """As ``plan``; for None, ``GENEROUS`` if a third of all gradients fit in, else ``least``.

    Example:
        >>> sizes = {"checkpoint": 1_400_000, "record": 700_000, "start": 700_000}
        >>> plan_within(None, 1_000, **sizes).recomputed(1_000)
        487
        >>> plan_within(None, 10_000, **sizes)
        Levels(checkpoints=68, records=145, levels=2)
    """
    if memory is None:
        most = _most_records(GENEROUS, steps, checkpoint, record)
        memory = GENEROUS if most >= steps / 3 else least(steps, checkpoint, record)
    return plan(memory, steps, checkpoint, record, start)


def least(steps: int, checkpoint: int, record: int) -> int:
    """Bytes that two levels need: about twice √steps checkpoints and gradients."""
    best = math.isqrt(steps * checkpoint // record + 1)  # equal bytes, but for the points between
    counts = range(max(best // 4, 1), min(4 * best, steps) + 1)
    pieces = ((count, max(-(-steps // count) - 1, 0)) for count in counts)
    return min(_record_bytes(count, checkpoint, record) + n * checkpoint for count, n in pieces)


def _record_bytes(records: int, checkpoint: int, record: int) -> int:
    """Memory to go back over recorded steps.

    The gradients, FAN − 1 points between them at each division, and the checkpoints at both ends.
    """
    divisions = 0
    while FAN**divisions < records:
        divisions += 1
    between = records - 1 if records <= FAN else divisions * (FAN - 1)
    return records * record + (between + 2) * checkpoint


def _most_records(memory: int, steps: int, checkpoint: int, record: int) -> int:
    """The most steps whose gradients fit in, by bisection."""
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        if _record_bytes(middle, checkpoint, record) <= memory:
            low = middle
        else:
            high = middle - 1
    return low
