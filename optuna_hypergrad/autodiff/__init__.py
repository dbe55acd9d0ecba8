"""Hypergradients of training runs in torch; independent of Optuna."""

import warnings
from typing import Any

from optuna_hypergrad.autodiff import relaxations as relaxations
from optuna_hypergrad.autodiff.forward import ForwardMode
from optuna_hypergrad.autodiff.recompute.recomputation import RecomputeError
from optuna_hypergrad.autodiff.result import Cost, Hypergradient
from optuna_hypergrad.autodiff.training import hypergradient
from optuna_hypergrad.autodiff.updates import (
    SGD,
    Adam,
    AdamW,
    Averaged,
    Clipped,
    ParameterGroups,
    Projected,
    Update,
)

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Averaged",
    "Clipped",
    "Cost",
    "ForwardMode",
    "Hypergradient",
    "ParameterGroups",
    "Projected",
    "RecomputeError",
    "Update",
    "hypergradient",
]


def __getattr__(name: str) -> Any:
    if name == "ReplayError":
        message = "optuna_hypergrad.autodiff.ReplayError is called RecomputeError."
        warnings.warn(message, FutureWarning, stacklevel=2)
        return RecomputeError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
