"""What is kept of a run: checkpoints, and records of single steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.carried import Carried
from optuna_hypergrad.autodiff.objective import Batch, Slope
from optuna_hypergrad.autodiff.replay.keeping import Keeper, Kept
from optuna_hypergrad.autodiff.replay.stream import Stream
from optuna_hypergrad.autodiff.replay.surroundings import Surroundings
from optuna_hypergrad.autodiff.weights import Reached


class ReplayError(RuntimeError):
    """A step that was run again came out differently.

    The message names the step and what to look for, most often a counter or a generator of one's
    own that the step depends on.
    """


@dataclass(frozen=True)
class Checkpoint:
    """Where a run can be taken up: the weights, the update's state and the surroundings."""

    step: int
    kept: Kept
    surroundings: Surroundings

    @property
    def point(self) -> Carried:
        """The weights and the update's state."""
        weights, *state = self.kept.read()
        return Carried(weights, tuple(state))


@dataclass(frozen=True)
class Record:
    """One step: its gradient, which weights it reaches, and the surroundings before it."""

    kept: Kept
    reached: Reached
    surroundings: Surroundings
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

    def checkpoint(self, step: int, point: Carried, surroundings: Surroundings) -> Checkpoint:
        """Keep a point."""
        return Checkpoint(step, self._keeper.keep(point.weights, *point.state), surroundings)

    def record(
        self, step: int, slope: Slope, before: Surroundings, batches: tuple[Batch, ...]
    ) -> None:
        """Keep a step."""
        known = self.steps.get(step - 1)
        beside = before.bytes_beside(known.surroundings) if known is not None else 0
        beside += self._stream.kept_bytes(batches)
        kept = self._keeper.keep(slope.gradient, beside=beside)
        kept_batches = None if self._stream.by_number else batches
        self.steps[step] = Record(kept, slope.reached, before, kept_batches)


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
