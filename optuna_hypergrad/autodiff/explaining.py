"""What torch's errors inside of a loss mean, where it is not the loss's own fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch.utils._pytree import tree_leaves

# Parts of what torch says to a tensor where it wants a number.
_WANTS_A_NUMBER = (
    "not Tensor",
    "Tensor, ",  # among the kinds that were got
    "only integer tensors",
    "not differentiable with respect to argument",
    "Can't call numpy() on Tensor",
)


@contextmanager
def explained(batch: object, learned: Sequence[str]) -> Iterator[None]:
    """Within it, some of torch's errors are raised again with what to do about them.

    Args:
        batch: What the loss is called with.
        learned: Names of the hyperparameters that it gets as tensors.

    Raises:
        TypeError: Where the batch holds numpy arrays, or a learned value is where torch takes only
            numbers.
    """
    try:
        yield
    except (TypeError, RuntimeError) as error:
        told = str(error).split("\n")[0].rstrip(".")
        if isinstance(error, TypeError) and _has_arrays(batch):
            raise TypeError(
                f"loss_fn: {told}. The batch holds numpy arrays: give batches and validation as "
                "tensors, made by torch.from_numpy, or make them in loss_fn."
            ) from error
        if learned and any(part in str(error) for part in _WANTS_A_NUMBER):
            names = ", ".join(map(repr, learned))
            raise TypeError(
                f"loss_fn: {told}. Values of hypers that are learned ({names}) are tensors, which "
                "torch does not take for every argument: write the formula out, such as "
                "(1 - s) * F.cross_entropy(z, y) - s * F.log_softmax(z, dim=-1).mean() for label "
                "smoothing s, or use optuna_hypergrad.autodiff.relaxations: relaxed_dropout for a "
                "dropout rate, rounded for an integer, chosen for a choice."
            ) from error
        raise


def _has_arrays(batch: object) -> bool:
    return any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(batch))
