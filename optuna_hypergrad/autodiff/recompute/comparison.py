"""Whether a step that was computed again came out as before."""

from __future__ import annotations

import torch
from torch import Tensor


class RecomputeError(RuntimeError):
    """A step gave another result when it was computed again.

    The message names the step and likely causes, most often a counter or a random number generator
    of the user's code.
    """


def check_recomputed(step: int, found: Tensor, recorded: Tensor) -> None:
    """Raise a RecomputeError if two computations of a step differ by more than rounding."""
    tolerance, error = torch.finfo(recorded.dtype).eps ** 0.5, difference(found, recorded)
    if not error <= tolerance:
        raise RecomputeError(
            f"step {step} came out differently when it was computed again: relative difference "
            f"{error:.1e}, expected at most {tolerance:.1e}. The step depends on something that is "
            "not in the model's weights, buffers and modes, nor in the random number generators of "
            "torch, numpy and Python: a counter or a generator of the model, of the loss or of "
            "the batches, or what on_step changed. Make batches a sequence or a function of the "
            "step, or use mode='forward'."
        )


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative difference of two tensors; 0 where ``expected`` is not finite."""
    if torch.equal(found, expected) or not expected.isfinite().all():
        return 0.0
    return float((found - expected).norm() / expected.norm())
