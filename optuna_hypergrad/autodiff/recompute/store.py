"""Checkpoints and gradients of a run, stored on the device, in host memory or on disk."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optuna_hypergrad.autodiff.loss import Batch
from optuna_hypergrad.autodiff.snapshot import Snapshot
from optuna_hypergrad.autodiff.step import TrainState
from optuna_hypergrad.autodiff.weights import HasGrad

Place = Literal["device", "host", "disk"]


class CheckpointStore:
    """Stores tensors and counts their bytes.

    Args:
        place: ``"device"``: where the tensors are; ``"host"``: in pinned memory, for a model on
            another device; ``"disk"``: in files of a temporary folder.
    """

    def __init__(self, place: Place) -> None:
        if place not in get_args(Place):
            raise ValueError(f"checkpoints must be one of {get_args(Place)}, got {place!r}.")
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
            self._tensors = [_pinned(tensor) for tensor in tensors]
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


def _pinned(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run before one step."""

    step: int
    stored: Stored
    snapshot: Snapshot

    @property
    def point(self) -> TrainState:
        """The weights and the state of the update."""
        weights, *state = self.stored.read()
        return TrainState(weights, tuple(state))


@dataclass(frozen=True)
class StepRecord:
    """The gradient of one step, and the snapshot before it."""

    stored: Stored
    has_grad: HasGrad
    snapshot: Snapshot
    batches: tuple[Batch, ...] | None  # None if they can be taken again by their number

    @property
    def gradient(self) -> Tensor:
        """The training gradient, shape (D,)."""
        return self.stored.read()[0]


class RecomputeError(RuntimeError):
    """A step gave another result when it was computed again.

    The message names the step and likely causes, most often a counter or a random number generator
    of the user's code.
    """


def check_recomputed(step: int, found: Tensor, recorded: Tensor) -> None:
    """Raise a RecomputeError if two computations of a step differ by more than rounding."""
    if torch.equal(found, recorded) or not recorded.isfinite().all():
        return
    tolerance = torch.finfo(recorded.dtype).eps ** 0.5
    error = float((found - recorded).norm() / recorded.norm())
    if not error <= tolerance:
        raise RecomputeError(
            f"step {step} came out differently when it was computed again: relative difference "
            f"{error:.1e}, expected at most {tolerance:.1e}. The step depends on something that is "
            "not in the model's weights, buffers and modes, nor in the random number generators of "
            "torch, numpy and Python: a counter or a generator of the model, of the loss or of "
            "the batches, or what on_step changed. Make batches a sequence or a function of the "
            "step, or use mode='forward'."
        )
