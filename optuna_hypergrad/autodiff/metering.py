"""What a piece of work costs: seconds, and the most memory that it holds."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Time and memory of a piece of work."""

    seconds: float = 0.0
    """Wall-clock time."""
    bytes: int | None = None
    """The most that was held at a time beyond what was held before. On a CPU that is the memory of
    the whole process, other threads' too, and None where the system does not tell (not Linux)."""


@contextmanager
def metered(device: torch.device) -> Iterator[Cost]:
    """Measures a ``with`` block; what it cost is there when the block has ended.

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
    before = _restart(device)
    start = time.perf_counter()
    try:
        yield cost
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - start
        if before is not None:
            cost.bytes = max(_peak(device) - before, 0)


def timed(work: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    """Seconds of several rounds, the fastest first."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)


def give_back() -> None:
    """Hand what was freed on the CPU back to the system, where the C library can.

    Between small tensors that are kept, large ones that are freed at every step leave gaps that
    glibc does not fill again: without this, a run holds several times what it keeps.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _restart(device: torch.device) -> int | None:
    """Forget the peak so far; gives the bytes held now."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    give_back()  # what was freed is else still counted as held
    try:
        _CLEAR.write_text("5")  # sets VmHWM to VmRSS; see proc(5)
    except OSError:  # no Linux, or one that does not allow it: the peak cannot be told
        return None
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
