"""What resumes a training run beside its weights: random generators and optimizers."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.checkpoints.encoding import CheckpointError

# What Python, numpy and torch raise for the state of a generator that is not one of theirs.
_WRONG_STATE = (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


def rng_state() -> dict[str, Any]:
    """The state of the global random generators, for ``encode`` and ``set_rng_state``.

    These are Python's, numpy's, torch's on the CPU and, once CUDA is in use, torch's on every
    visible CUDA device. Generators of your own, as of a data loader, are yours to store.
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if _cuda_in_use() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Continue the random numbers from where ``rng_state`` was called.

    Generators of CUDA devices that are not here are left out.

    Raises:
        CheckpointError: If ``state`` is not what ``rng_state`` returns.

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
        present = range(torch.cuda.device_count())
        for device, generator in zip(present, state["cuda"], strict=False):
            torch.cuda.set_rng_state(generator.cpu(), device)
    except _WRONG_STATE as error:
        raise CheckpointError(f"rng_state: cannot be restored here: {error!r}") from error


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore what an optimizer has accumulated, and keep its options as constructed.

    Momentum buffers, moments and step counters are copied to the parameters' device and dtype, as
    ``optimizer.load_state_dict`` does. That would restore the learning rate, momentum, weight decay
    and betas too, over those that were suggested for this trial; here they stay.

    Args:
        optimizer: An optimizer of the same class, with the same parameters in the same groups.
        state: What its ``state_dict()`` returned.

    Raises:
        CheckpointError: If ``state`` is not the state of an optimizer of such groups.

    Example:
        >>> weights = [torch.zeros(3)]
        >>> stored = torch.optim.SGD(weights, lr=0.1, momentum=0.9).state_dict()
        >>> optimizer = torch.optim.SGD(weights, lr=0.5, momentum=0.9)
        >>> load_optimizer(optimizer, stored)
        >>> optimizer.param_groups[0]["lr"]
        0.5
    """
    check_kind("optimizer", optimizer, torch.optim.Optimizer, "one of torch's")
    present = optimizer.state_dict()["param_groups"]
    try:
        groups, moments = [group["params"] for group in state["param_groups"]], state["state"]
        came, expected = [len(group) for group in groups], [len(g["params"]) for g in present]
    except (KeyError, TypeError) as error:
        message = f"optimizer: expected its state_dict(), got {type(state)}: {error!r}"
        raise CheckpointError(message) from error
    if came != expected:
        raise CheckpointError(f"optimizer: expected groups of {expected} parameters, got {came}.")
    kept = [{**old, "params": ids} for old, ids in zip(present, groups, strict=True)]
    # torch keeps tensors that are in place already: without a copy, clones would share them.
    optimizer.load_state_dict({"state": copy.deepcopy(moments), "param_groups": kept})


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
