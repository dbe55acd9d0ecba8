"""Hypergradients of training runs in torch; independent of Optuna."""

from typing import Any

from optuna_hypergrad.arguments import renamed
from optuna_hypergrad.autodiff import relaxations as relaxations
from optuna_hypergrad.autodiff.forward_mode import ForwardMode
from optuna_hypergrad.autodiff.growth import Growth
from optuna_hypergrad.autodiff.recompute.comparison import RecomputeError
from optuna_hypergrad.autodiff.recompute.memory import resetting
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
    "Growth",
    "Hypergradient",
    "ParameterGroups",
    "Projected",
    "RecomputeError",
    "Update",
    "hypergradient",
    "resetting",
]


def __getattr__(name: str) -> Any:
    return renamed(__name__, name, {"ReplayError": "RecomputeError"})
