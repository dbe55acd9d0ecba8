"""Hypergradients of training runs in torch; knows nothing of Optuna."""

from optuna_hypergrad.autodiff import relaxations as relaxations
from optuna_hypergrad.autodiff.forecast import Forecast
from optuna_hypergrad.autodiff.forward import ForwardMode
from optuna_hypergrad.autodiff.recompute.tape import ReplayError
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
    "Forecast",
    "ForwardMode",
    "Hypergradient",
    "ParameterGroups",
    "Projected",
    "ReplayError",
    "Update",
    "hypergradient",
]
