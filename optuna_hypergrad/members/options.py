"""Restored parts use the values that the trial suggests, not those that were saved.

A restored state that silently overwrites mutated hyperparameters is the worst bug of other
population trainers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from optuna import Trial
from torch.optim.lr_scheduler import LRScheduler

from optuna_hypergrad.checkpoints import load_optimizer
from optuna_hypergrad.options import Option
from optuna_hypergrad.samplers.distributions import rounds_to


def follow(part: Any, stored: Any, trial: Trial) -> None:
    """Load the stored state of a part, if there is one, except for what the trial suggests."""
    if stored is not None and isinstance(part, torch.optim.Optimizer):
        load_optimizer(part, stored)
    elif stored is not None and isinstance(part, LRScheduler):
        _load_scheduler(part, stored)
    elif stored is not None:
        if not hasattr(part, "load_state_dict"):
            raise ValueError(
                f"a part to restore must have load_state_dict, got {part!r:.60}; plain values are "
                "among those that restore returns."
            )
        part.load_state_dict(stored)
    if hasattr(part, "set_values"):
        params, spaces = trial.params, trial.distributions
        values = {name: value for name, value in part.values.items() if name in params}
        part.set_values(
            {
                name: params[name]
                for name, value in values.items()
                # A continued member has them already, except for rounding to a grid.
                if not _same(value, params[name])
                and not rounds_to(value, params[name], spaces[name])
            }
        )


def check_options(
    parts: Mapping[str, Any], params: Mapping[str, Any], uses: Mapping[str, str] | None
) -> None:
    """Raise a ValueError unless the optimizers among the parts use what the trial suggests.

    Args:
        parts: Those that are restored.
        params: What the trial has suggested.
        uses: The option of each parameter; by default that of the same name, if there is one.
    """
    optimizers = {n: p for n, p in parts.items() if isinstance(p, torch.optim.Optimizer)}
    groups = [group for part in optimizers.values() for group in part.param_groups]
    same = {name: name for name in params if any(name in group for group in groups)}
    for param, option in (same if uses is None else uses).items():
        if param not in params:
            raise ValueError(f"uses: the trial has not suggested {param!r}.")
        used = _used(optimizers, option)
        if not used:
            known = ", ".join(optimizers) or "anything restored: no part is an optimizer"
            raise ValueError(f"uses: {option!r} is not an option of {known}.")
        if not any(_same(value, params[param]) for value in used):
            raise ValueError(
                f"an optimizer uses {option}={used[0]!r}, but the trial suggests "
                f"{param}={params[param]!r}; construct it with the suggested value, or name "
                "the option of each parameter in ``uses``."
            )


def _used(optimizers: Mapping[str, torch.optim.Optimizer], text: str) -> list[Any]:
    """Values of an option in all groups; of ``lr``, also before a scheduler moved it."""
    option = Option.parse(text)
    chosen = {k: v for k, v in optimizers.items() if option.optimizer in (None, k)}
    names = ("lr", "initial_lr") if option.name == "lr" else (option.name,)
    return [
        value
        for optimizer in chosen.values()
        for name in names
        for value in replace(option, name=name).values(optimizer.param_groups)
    ]


def _load_scheduler(scheduler: LRScheduler, stored: Mapping[str, Any]) -> None:
    """Continue from the stored step, in proportion to the learning rates as constructed."""
    chain = [scheduler, *getattr(scheduler, "_schedulers", [])]
    own = [list(getattr(one, "base_lrs", [])) for one in chain]
    scheduler.load_state_dict(copy.deepcopy(dict(stored)))
    groups = scheduler.optimizer.param_groups
    ratios = [1.0] * len(groups)
    for one, base in zip(chain, own, strict=True):
        if base:
            ratios = [
                new / old if old else 1.0 for new, old in zip(base, one.base_lrs, strict=True)
            ]
            one.base_lrs = base
    has_base = any(own)  # ReduceLROnPlateau has none: it starts again from the suggested rate
    last = scheduler._last_lr if has_base else [group["lr"] for group in groups]
    scheduler._last_lr = [lr * ratio for lr, ratio in zip(last, ratios, strict=True)]
    for group, lr in zip(groups, scheduler._last_lr, strict=True):
        group["lr"] = lr


def _same(used: Any, suggested: Any) -> bool:
    """Equal; numbers up to the rounding of float32."""
    used = used.item() if isinstance(used, torch.Tensor) else used
    if isinstance(used, Real) and isinstance(suggested, Real):
        return math.isclose(used, suggested, rel_tol=1e-6)
    return bool(used == suggested)
