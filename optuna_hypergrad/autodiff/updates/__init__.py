"""Inner updates: one training step of the weights as a pure map.

An update maps (weights, state, gradient, hyperparameters) to (weights, state). It contains no
derivatives: those with respect to all hyperparameters come from differentiating this map, so
weights and hypergradients cannot disagree. ``SGD``, ``Adam`` and ``AdamW`` are torch's;
``Clipped``, ``Averaged``, ``ParameterGroups`` and ``Projected`` wrap any update.
"""

from typing import Any

from optuna_hypergrad.arguments import renamed
from optuna_hypergrad.autodiff.updates.groups import ParameterGroups
from optuna_hypergrad.autodiff.updates.optimizers import SGD, Adam, AdamW
from optuna_hypergrad.autodiff.updates.protocol import (
    Hparam,
    State,
    Update,
    Values,
    evaluated,
    trained,
)
from optuna_hypergrad.autodiff.updates.wrappers import Averaged, Clipped, Projected

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Averaged",
    "Clipped",
    "Hparam",
    "ParameterGroups",
    "Projected",
    "State",
    "Update",
    "Values",
    "evaluated",
    "trained",
]


def __getattr__(name: str) -> Any:
    return renamed(__name__, name, {"Hyper": "Hparam"})
