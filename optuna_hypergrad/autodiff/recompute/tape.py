"""Where checkpoints and gradients are kept: on the device, in host memory, or on disk.

What is kept of a run: checkpoints, and records of single steps.
"""

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

from optuna_hypergrad.autodiff.loss import Batch, LossGrad
from optuna_hypergrad.autodiff.snapshot import Snapshot
from optuna_hypergrad.autodiff.step import TrainState
from optuna_hypergrad.autodiff.stream import Stream
from optuna_hypergrad.autodiff.weights import HasGrad

Place = Literal["device", "host", "disk"]


class Kept:
    """Tensors that were put away; forgotten with this object."""

    def __init__(self, tensors: Sequence[Tensor], keeper: Keeper, beside: int) -> None:
        self._tensors: Sequence[Tensor] = ()
        self._path: Path | None = None
        self._device = tensors[0].device
        self.bytes = beside + sum(t.numel() * t.element_size() for t in tensors)
        keeper.count(self.bytes)
        weakref.finalize(self, keeper.count, -self.bytes)
        if keeper.folder is not None:
            self._path = keeper.folder / f"{id(self)}.safetensors"
            save_file({str(i): t.contiguous() for i, t in enumerate(tensors)}, self._path)
            weakref.finalize(self, self._path.unlink, missing_ok=True)
        else:
            self._tensors = [keeper.moved(t) for t in tensors]

    def read(self) -> list[Tensor]:
        """The tensors, on the device that they came from."""
        if self._path is None:
            return [t.to(self._device, non_blocking=True) for t in self._tensors]
        tensors = load_file(self._path, device=str(self._device))
        return [tensors[str(i)] for i in range(len(tensors))]


def check_place(place: str) -> None:
    """Raise a ValueError where there is no such place."""
    if place not in get_args(Place):
        raise ValueError(f"checkpoints must be one of {get_args(Place)}, got {place!r}.")


class Keeper:
    """Puts tensors away, and counts their bytes.

    Args:
        place: ``"device"``: where they are; ``"host"``: in pinned memory of the host, for a model
            on another device; ``"disk"``: in files of a temporary folder.
    """

    def __init__(self, place: Place) -> None:
        self._place, self.bytes, self.peak = place, 0, 0
        self.folder: Path | None = None
        if place == "disk":
            self.folder = Path(tempfile.mkdtemp(prefix="hypergradient-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def keep(self, *tensors: Tensor, beside: int = 0) -> Kept:
        """Put tensors away; ``beside`` are bytes of other things that are kept with them."""
        return Kept(tensors, self, beside)

    def moved(self, tensor: Tensor) -> Tensor:
        """A tensor at the place where it is kept."""
        if self._place == "device" or tensor.device.type == "cpu":
            return tensor
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return host.copy_(tensor)

    def count(self, size: int) -> None:
        """Count bytes that are kept, or, below zero, that no longer are."""
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


class ReplayError(RuntimeError):
    """A step that was run again came out differently.

    The message names the step and what to look for, most often a counter or a generator of one's
    own that the step depends on.
    """


@dataclass(frozen=True)
class Checkpoint:
    """Where a run can be taken up: the weights, the update's state and the snapshot."""

    step: int
    kept: Kept
    snapshot: Snapshot

    @property
    def point(self) -> TrainState:
        """The weights and the update's state."""
        weights, *state = self.kept.read()
        return TrainState(weights, tuple(state))


@dataclass(frozen=True)
class Record:
    """One step: its gradient, which weights it reaches, and the snapshot before it."""

    kept: Kept
    has_grad: HasGrad
    snapshot: Snapshot
    batches: tuple[Batch, ...] | None  # where they cannot be had again by their number

    @property
    def gradient(self) -> Tensor:
        """The training gradient, shape (D,)."""
        return self.kept.read()[0]


class Tape:
    """Puts checkpoints and records away.

    Args:
        keeper: Where to.
        stream: The batches, which are kept if they cannot be had again by their number.
    """

    def __init__(self, keeper: Keeper, stream: Stream) -> None:
        self._keeper, self._stream = keeper, stream
        self.steps: dict[int, Record] = {}

    def checkpoint(self, step: int, point: TrainState, snapshot: Snapshot) -> Checkpoint:
        """Keep a point."""
        return Checkpoint(step, self._keeper.keep(point.weights, *point.state), snapshot)

    def record(
        self, step: int, slope: LossGrad, before: Snapshot, batches: tuple[Batch, ...]
    ) -> None:
        """Keep a step."""
        known = self.steps.get(step - 1)
        beside = before.bytes_beside(known.snapshot) if known is not None else 0
        beside += self._stream.kept_bytes(batches)
        kept = self._keeper.keep(slope.gradient, beside=beside)
        kept_batches = None if self._stream.by_number else batches
        self.steps[step] = Record(kept, slope.has_grad, before, kept_batches)


def check_replay(step: int, found: Tensor, recorded: Tensor) -> None:
    """Raise a ReplayError where two runs of the same step differ by more than rounding."""
    if torch.equal(found, recorded) or not recorded.isfinite().all():
        return
    tolerance = torch.finfo(recorded.dtype).eps ** 0.5
    error = float((found - recorded).norm() / recorded.norm())
    if not error <= tolerance:
        raise ReplayError(
            f"step {step} came out differently when it was run again: relative difference "
            f"{error:.1e}, expected at most {tolerance:.1e}. Something that the step depends on is "
            "not in the model's weights, buffers and modes, nor in the random number generators of "
            "torch, numpy and Python: a counter or a generator of the model, of the loss or of "
            "the batches, or what on_step changed. Make batches a sequence or a function of the "
            "step, or use mode='forward'."
        )
