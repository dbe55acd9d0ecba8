"""What is restored must follow the trial: the values that it suggests are the values in use.

That a restored state silently overwrites mutated hyperparameters is the worst bug of other
population trainers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from optuna_hypergrad.checkpoints import load_optimizer


def follow(part: Any, stored: Any, params: Mapping[str, Any]) -> None:
    """Load what was stored of a part, if anything was, without what the trial suggests anew."""
    if isinstance(part, torch.optim.Optimizer):
        if stored is not None:
            load_optimizer(part, stored)
        return
    if stored is not None:
        _check_loads(part)
        part.load_state_dict(stored)
    if hasattr(part, "set_values"):
        known = {name: value for name, value in part.values.items() if name in params}
        # Whoever goes on has these values already; to set a whole number would lose its progress.
        part.set_values({n: params[n] for n, v in known.items() if not _same(v, params[n])})


def _check_loads(part: Any) -> None:
    if not hasattr(part, "load_state_dict"):
        raise ValueError(
            f"a part to restore must have load_state_dict, got {part!r:.60}; plain values are "
            "among those that restore returns."
        )


def check_options(
    parts: Mapping[str, Any], params: Mapping[str, Any], uses: Mapping[str, str] | None
) -> None:
    """Check that optimizers use what the trial suggests.

    Args:
        parts: Optimizers, and others, which are not looked at.
        params: What the trial has suggested.
        uses: The option of each parameter; by default that of the same name, if there is one.

    Raises:
        ValueError: If an option differs from the parameter; it names both.
    """
    for name, part in parts.items():
        if not isinstance(part, torch.optim.Optimizer):
            continue
        for group in part.param_groups:
            same = {param: param for param in params if param in group}
            for param, option in (same if uses is None else uses).items():
                _check_equal(name, option, _of(group, option), param, params)


def _check_equal(part: str, option: str, used: Any, param: str, params: Mapping[str, Any]) -> None:
    if param not in params:
        raise ValueError(f"uses: the trial has not suggested {param!r}.")
    used = used.item() if isinstance(used, torch.Tensor) else used
    if not _same(used, params[param]):
        raise ValueError(
            f"{part} uses {option}={used!r}, but the trial suggests {param}={params[param]!r}; "
            "construct the optimizer with the suggested values, or say by ``uses`` which option "
            "is which parameter."
        )


def _same(one: float, other: float) -> bool:
    """Equal up to the rounding of float32."""
    return math.isclose(one, other, rel_tol=1e-6)


def _of(group: Mapping[str, Any], option: str) -> Any:
    """An option of a parameter group; ``betas.0`` is the first of ``betas``."""
    name, _, index = option.partition(".")
    if name not in group:
        known = ", ".join(key for key in group if key != "params")
        raise ValueError(f"uses: {option!r} is not an option of the optimizer ({known}).")
    return group[name][int(index)] if index else group[name]
