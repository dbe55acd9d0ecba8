"""Where checkpoints and gradients are kept: on the device, in host memory, or on disk."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

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
