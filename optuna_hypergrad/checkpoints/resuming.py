"""Random generators and optimizers of a resumed training run."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.checkpoints.encoding import CheckpointError

# What Python, NumPy and torch raise for an invalid generator state.
_WRONG_STATE = (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


def rng_state() -> dict[str, Any]:
    """Return the state of the global random generators, for ``encode`` and ``set_rng_state``.

    These are Python's, NumPy's, torch's on the CPU and, once CUDA is in use, torch's on every
    visible CUDA device. Other generators, such as a data loader's, are not included.
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore the global random generators to a state that ``rng_state`` returned.

    States of CUDA devices that do not exist here are ignored.

    Raises:
        CheckpointError: If ``state`` does not come from ``rng_state``.

    Example:
        >>> import torch
        >>> state = rng_state()
        >>> first = torch.rand(3)
        >>> set_rng_state(state)
        >>> torch.equal(torch.rand(3), first)
        True
    """
    try:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"].cpu())
        devices = range(torch.cuda.device_count())
        for device, generator in zip(devices, state["cuda"], strict=False):
            torch.cuda.set_rng_state(generator.cpu(), device)
    except _WRONG_STATE as error:
        raise CheckpointError(f"rng_state: cannot be restored here: {error!r}") from error


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the buffers of an optimizer, and keep its options as constructed.

    Momentum buffers, moments and step counters are copied to the parameters' device and dtype, as
    by ``optimizer.load_state_dict``, which would also overwrite the learning rate, momentum, weight
    decay and betas that were suggested for this trial.

    Args:
        optimizer: An optimizer of the same class, with the same parameters in the same groups.
        state: The stored ``state_dict()``.

    Raises:
        CheckpointError: If ``state`` does not come from an optimizer with such groups.

    Example:
        >>> weights = [torch.zeros(3)]
        >>> stored = torch.optim.SGD(weights, lr=0.1, momentum=0.9).state_dict()
        >>> optimizer = torch.optim.SGD(weights, lr=0.5, momentum=0.9)
        >>> load_optimizer(optimizer, stored)
        >>> optimizer.param_groups[0]["lr"]
        0.5
    """
    check_kind("optimizer", optimizer, torch.optim.Optimizer, "one of torch's")
    options = optimizer.state_dict()["param_groups"]
    try:
        groups, buffers = [group["params"] for group in state["param_groups"]], state["state"]
        found, expected = [len(group) for group in groups], [len(g["params"]) for g in options]
    except (KeyError, TypeError) as error:
        message = f"optimizer: expected its state_dict(), got {type(state)}: {error!r}"
        raise CheckpointError(message) from error
    if found != expected:
        raise CheckpointError(f"optimizer: expected groups of {expected} parameters, got {found}.")
    merged = [{**own, "params": ids} for own, ids in zip(options, groups, strict=True)]
    # torch does not copy tensors of the right device and dtype: clones would share them.
    optimizer.load_state_dict({"state": copy.deepcopy(buffers), "param_groups": merged})
