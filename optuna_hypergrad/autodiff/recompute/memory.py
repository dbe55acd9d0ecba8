"""Memory of a run, measured; and where checkpoints of reverse mode are stored."""

from __future__ import annotations

import ctypes
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optuna_hypergrad.arguments import check_choice
from optuna_hypergrad.autodiff.result import Cost

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Place = Literal["device", "host", "disk"]


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
            # Nothing reads them but copies to the device, which it makes in order.
            pairs = zip(pinned, tensors, strict=True)
            self._tensors = [to.copy_(t, non_blocking=True) for to, t in pairs]
        elif store.place == "disk":
            self._tensors, self._path = (), store.folder / f"{id(self)}.safetensors"
            save_file({str(i): t.contiguous() for i, t in enumerate(tensors)}, self._path)
            weakref.finalize(self, self._path.unlink, missing_ok=True)

    def read(self) -> list[Tensor]:
        """The tensors, on the device that they came from."""
        if self._tensors:
            is_here = self._tensors[0].device == self._device
            there = self._tensors
            return [*there] if is_here else [t.to(self._device, non_blocking=True) for t in there]
        tensors = load_file(self._path, device=str(self._device))
        return [tensors[str(i)] for i in range(len(tensors))]


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
