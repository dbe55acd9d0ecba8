"""Memory of a run: measured; and of reverse mode: where checkpoints are stored, and how many fit.

Steps of which nothing is stored are computed again; ``plan_within`` finds the plan with the fewest.
"""

from __future__ import annotations

import ctypes
import math
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optuna_hypergrad.arguments import check_choice
from optuna_hypergrad.autodiff.result import Cost

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Place = Literal["device", "host", "disk"]
GENEROUS = 384 * 2**20  # bytes; the default if a third of all gradients fit in
SMALL = 32 * 2**20  # bytes; up to which all weights are kept, too, which saves time
FAN = 8  # parts into which the way back divides steps whose gradients are recorded


class CheckpointStore:
    """Stores tensors and counts their bytes.

    Args:
        place: ``"device"``: where the tensors are; ``"host"``: in pinned memory, for a model on
            another device; ``"disk"``: in files of a temporary folder.
    """

    def __init__(self, place: Place) -> None:
        check_choice("checkpoints", place, get_args(Place))
        self.place, self.bytes, self.peak = place, 0, 0
        self.folder = Path()

    def put(self, *tensors: Tensor, extra_bytes: int = 0) -> Stored:
        """Store tensors; ``extra_bytes`` are those of other objects that live as long."""
        if self.place == "disk" and self.folder == Path():
            self.folder = Path(tempfile.mkdtemp(prefix="hypergradient-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        return Stored(tensors, self, extra_bytes)

    def count(self, size: int) -> None:
        """Count bytes that are stored from now on or, below zero, no longer."""
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


class Stored:
    """Tensors in a store, which are released with this object."""

    def __init__(self, tensors: Sequence[Tensor], store: CheckpointStore, extra: int) -> None:
        self._device, self._path = tensors[0].device, Path()
        self.bytes = extra + sum(tensor.nbytes for tensor in tensors)
        store.count(self.bytes)
        weakref.finalize(self, store.count, -self.bytes)
        self._tensors: Sequence[Tensor] = tensors
        if store.place == "host" and self._device.type != "cpu":
            pinned = [torch.empty_like(t, device="cpu", pin_memory=True) for t in tensors]
            self._tensors = [to.copy_(t) for to, t in zip(pinned, tensors, strict=True)]
        elif store.place == "disk":
            self._tensors, self._path = (), store.folder / f"{id(self)}.safetensors"
            save_file({str(i): t.contiguous() for i, t in enumerate(tensors)}, self._path)
            weakref.finalize(self, self._path.unlink, missing_ok=True)

    def read(self) -> list[Tensor]:
        """The tensors, on the device that they came from."""
        if self._tensors:
            return [tensor.to(self._device, non_blocking=True) for tensor in self._tensors]
        tensors = load_file(self._path, device=str(self._device))
        return [tensors[str(i)] for i in range(len(tensors))]


@dataclass(frozen=True)
class Plan:
    """Checkpoints and records of a run.

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

    def recomputed(self, steps: int) -> int:
        """Number of steps that are computed again, those computed three times counted twice.

        Example:
            >>> Plan(checkpoints=3, records=4, levels=2).recomputed(16)
            12
        """
        starts = [*self.pieces(0, steps), steps]
        lengths = [after - start for start, after in pairwise(starts)]
        return sum(length + self.recomputed(length) for length in lengths[:-1])


def plan(memory: int, steps: int, checkpoint: int, record: int) -> Plan:
    """The plan with the fewest levels, and of these with the most records, that fits in memory.

    Args:
        memory: Bytes to use at most.
        steps: Number of training steps.
        checkpoint: Bytes of one checkpoint.
        record: Bytes of one record.

    Raises:
        ValueError: If ``memory`` is too small for any plan.

    Example:
        >>> plan(100_000, steps=10_000, checkpoint=2, record=1)
        Plan(checkpoints=0, records=10000, levels=1)
        >>> plan(1_000, steps=10_000, checkpoint=2, record=1)
        Plan(checkpoints=10, records=920, levels=2)
    """
    if _record_bytes(steps, checkpoint, record) <= memory:
        return Plan(0, steps, 1)
    for levels in range(2, steps + 1):
        most = memory // max(checkpoint * (levels - 1), 1)
        for count in range(1, min(most, steps) + 1):
            left = memory - (levels - 1) * count * checkpoint
            found = Plan(count, _most_records(left, steps, checkpoint, record), levels)
            if found.reach >= steps:
                return found
            if found.records < 1:
                break
        if _most_records(memory - (levels - 1) * checkpoint, steps, checkpoint, record) < 1:
            break
    raise ValueError(
        f"memory: {memory} bytes are too few for {steps} steps with {checkpoint} bytes a "
        f"checkpoint and {record} bytes a gradient; {least(steps, checkpoint, record)} would do, "
        "and mode='forward' needs none."
    )


def plan_within(memory: int | None, steps: int, checkpoint: int, record: int) -> Plan:
    """As ``plan``; for None, ``GENEROUS`` if a third of all gradients fit in, else ``least``.

    Example:
        >>> plan_within(None, 1_000, checkpoint=1_400_000, record=700_000).recomputed(1_000)
        487
        >>> plan_within(None, 10_000, checkpoint=1_400_000, record=700_000).records
        145
    """
    if memory is None:
        most = _most_records(GENEROUS, steps, checkpoint, record)
        memory = GENEROUS if most >= steps / 3 else least(steps, checkpoint, record)
    return plan(memory, steps, checkpoint, record)


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


_resets = ContextVar("_resets", default=False)


@contextmanager
def resetting() -> Iterator[None]:
    """Let ``metered`` reset the process's peaks of memory within this block.

    The peaks are ``VmHWM`` of ``/proc/self/status`` and ``torch.cuda.max_memory_allocated``. They
    belong to the whole process, so other readers see the reset. Without it, a peak is known only
    if it is the highest that the process has had.

    Example:
        >>> import torch
        >>> with resetting(), metered(torch.device("cpu")) as cost:
        ...     _ = torch.ones(1000)
    """
    token = _resets.set(True)
    try:
        yield
    finally:
        _resets.reset(token)


@contextmanager
def metered(device: torch.device) -> Iterator[Cost]:
    """Measure a ``with`` block; the cost is filled in when the block ends.

    Args:
        device: The device whose memory counts.

    Example:
        >>> import torch
        >>> with metered(torch.device("cpu")) as cost:
        ...     _ = torch.ones(1000)
        >>> cost.seconds > 0
        True
    """
    cost = Cost()
    _synchronize(device)
    if device.type == "cpu":
        trim_heap()  # else memory that was freed before counts as held
    exact = _resets.get() and _reset_peak(device)
    held, highest = _held_and_peak(device)
    start = time.perf_counter()
    try:
        yield cost
    finally:
        _synchronize(device)
        cost.seconds = time.perf_counter() - start
        peak = _held_and_peak(device)[1]
        if held is not None and highest is not None and peak is not None:
            # Without a reset, a peak that is no higher than before may be an earlier one.
            cost.bytes = max(peak - held, 0) if exact or peak > highest else None


def trim_heap() -> None:
    """Return freed memory of the CPU to the system, where the C library can.

    Between small tensors that stay, large ones that are freed at every step leave gaps that glibc
    does not fill again: without this, a run holds a multiple of what it stores.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> bool:
    """Reset the peak of memory; False if the system does not allow it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5")  # sets VmHWM to VmRSS; see proc(5)
    except OSError:  # not Linux, or a system that forbids it
        return False
    return True


def _held_and_peak(device: torch.device) -> tuple[int | None, int | None]:
    """Bytes that are held now, and the most since the start or the last reset."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    try:
        lines = [line.split() for line in _STATUS.read_text().splitlines()]
    except OSError:  # not Linux
        return None, None
    found = {words[0]: int(words[1]) * 1024 for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return found.get("VmRSS:"), found.get("VmHWM:")
