"""What a piece of work costs: seconds, and the most memory that it holds.

What a training run with hypergradients gives back.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from optuna_hypergrad.autodiff.updates import State

if TYPE_CHECKING:
    from optuna_hypergrad.autodiff.forecast import Forecast

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Time and memory of a piece of work."""

    seconds: float = 0.0
    """Wall-clock time."""
    bytes: int | None = None
    """The most that was held at a time beyond what was held before. On a CPU that is the memory of
    the whole process, other threads' too. None where it cannot be told: the system says nothing
    (not Linux), or the process has held as much at an earlier time (see ``resetting``)."""


_resets = ContextVar("_resets", default=False)


@contextmanager
def resetting() -> Iterator[None]:
    """Within it, ``metered`` resets the process's own peaks, so that it can always tell the bytes.

    The peaks are ``VmHWM`` of ``/proc/self/status``, and ``torch.cuda.max_memory_allocated``. They
    belong to the whole process, so others who read them find them changed. Without this, a peak
    is known only where it is the highest that the process has had.

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
    _ready(device)
    exact = _resets.get() and _reset(device)
    held, highest = _held(device), _highest(device)
    start = time.perf_counter()
    try:
        yield cost
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - start
        peak = _highest(device)
        if held is not None and highest is not None and peak is not None:
            # Without a reset, a peak that is no higher than before may be one of before.
            cost.bytes = max(peak - held, 0) if exact or peak > highest else None


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


def _ready(device: torch.device) -> None:
    """Wait for work that is under way, and no longer count as held what was freed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    else:
        give_back()


def _reset(device: torch.device) -> bool:
    """Forget the peak so far; gives whether the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5")  # sets VmHWM to VmRSS; see proc(5)
    except OSError:  # no Linux, or one that does not allow it
        return False
    return True


def _held(device: torch.device) -> int | None:
    """Bytes that are held now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


def _highest(device: torch.device) -> int | None:
    """The most bytes that were held since the start, or since a reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:  # not Linux
        return None
    found = [line.split()[1] for line in lines if line.startswith(name)]
    return int(found[0]) * 1024 if found else None


@dataclass(frozen=True)
class Hypergradient:
    """What a training run with hypergradients gives back; ``repr`` leaves out lists and details."""

    gradient: dict[str, float]
    """∂(validation loss)/∂λ by trial parameter, in loss per unit of the parameter."""
    loss: float
    """Mean validation loss of the weights that the run ended with."""
    train_losses: list[float] = field(repr=False)
    """Training loss of every step's batch, before the step."""
    products: int
    """Hessian products taken; each costs about as much as one to two gradients."""
    mode: str
    """``"forward"`` or ``"reverse"``: which way the hypergradient was taken."""
    per_step: dict[str, NDArray[np.float64]] | None = field(default=None, repr=False)
    """Reverse mode: ∂(validation loss)/∂(value at each step), shape (steps,), by schedule."""
    clipped: float = field(default=0.0, repr=False)
    """Fraction of the entries of all Hessian products that ``clip_products`` changed."""
    tangent_norm: float | None = field(default=None, repr=False)
    """Forward mode: largest Euclidean norm of a column of ∂w/∂λ; explodes before hypergradients
    turn to noise."""
    replayed: int = field(default=0, repr=False)
    """Reverse mode: steps whose training gradient had to be computed once more."""
    kept_bytes: int = field(default=0, repr=False)
    """Reverse mode: the most bytes that checkpoints and recorded gradients took."""
    cost: Cost | None = None
    """Seconds that the run took, and the most memory that it held beyond what was held before."""
    forecast: Forecast | None = field(default=None, repr=False)
    """With ``mode="auto"``: what both modes were expected to cost."""
    state: State = field(default=(), repr=False, compare=False)
    """What the update remembers at the end (momentum, moments, the step count), a tuple of tensors
    of shape (D,), one number for each learned weight, or (). ``hypergradient(…, state=…)`` goes on
    from it."""
