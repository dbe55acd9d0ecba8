"""The result of a training run with hypergradients, and its cost in time and memory."""

from __future__ import annotations

import ctypes
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from optuna_hypergrad.autodiff.updates import State

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Time and memory of a piece of work."""

    seconds: float = 0.0
    """Wall-clock time."""
    bytes: int | None = None
    """Peak of memory beyond what was held before; on a CPU that of the whole process, including
    other threads. None if unknown: the system does not say (not Linux), or the process has held as
    much before (see ``resetting``)."""


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


@dataclass(frozen=True)
class Hypergradient:
    """Result of a training run with hypergradients; ``repr`` leaves out lists and details."""

    gradient: dict[str, float]
    """∂(validation loss)/∂λ by trial parameter, in loss per unit of the parameter."""
    loss: float
    """Mean validation loss of the trained weights."""
    train_losses: list[float] = field(repr=False)
    """Training loss of every step's batch, before the step."""
    products: int
    """Number of Hessian products; each costs about as much as one or two gradients."""
    mode: str
    """The mode that was used, ``"forward"`` or ``"reverse"``."""
    per_step: dict[str, NDArray[np.float64]] | None = field(default=None, repr=False)
    """Reverse mode: ∂(validation loss)/∂(value at each step), shape (steps,), by schedule."""
    clipped: float = field(default=0.0, repr=False)
    """Fraction of the entries of all Hessian products that ``clip_products`` changed."""
    tangent_norm: float | None = field(default=None, repr=False)
    """Forward mode: largest Euclidean norm of a tangent ∂w/∂λ; it explodes before hypergradients
    turn to noise."""
    recomputed: int = field(default=0, repr=False)
    """Reverse mode: number of training gradients that were computed again."""
    kept_bytes: int = field(default=0, repr=False)
    """Reverse mode: peak of the memory of checkpoints and recorded gradients."""
    cost: Cost | None = None
    """Seconds of the run, and its peak of memory beyond what was held before."""
    state: State = field(default=(), repr=False, compare=False)
    """State of the update at the end (momentum, moments, the step count): a tuple of tensors of
    shape (D,), one number for each learned weight, or (). ``hypergradient(…, state=…)`` continues
    from it."""

    @property
    def replayed(self) -> int:
        """The old name of ``recomputed``."""
        message = "Hypergradient.replayed is called recomputed and will be removed."
        warnings.warn(message, FutureWarning, stacklevel=2)
        return self.recomputed
