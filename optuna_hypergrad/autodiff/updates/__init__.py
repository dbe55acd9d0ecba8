"""Inner updates: how one training step moves the weights, written once as a pure map.

An update maps (weights, state, gradient, hyperparameters) to (weights, state). It never names a
derivative: the derivatives with respect to every hyperparameter come from differentiating this
very map, so the weights and their hypergradients cannot disagree. ``SGD``, ``Adam`` and ``AdamW``
are torch's; ``Clipped``, ``Averaged``, ``ParameterGroups`` and ``Projected`` wrap any update.
"""

from optuna_hypergrad.autodiff.updates.adam import Adam, AdamW
from optuna_hypergrad.autodiff.updates.groups import ParameterGroups
from optuna_hypergrad.autodiff.updates.protocol import (
    Hyper,
    State,
    Update,
    Values,
    evaluated,
    trained,
)
from optuna_hypergrad.autodiff.updates.sgd import SGD
from optuna_hypergrad.autodiff.updates.wrappers import Averaged, Clipped, Projected

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Averaged",
    "Clipped",
    "Hyper",
    "ParameterGroups",
    "Projected",
    "State",
    "Update",
    "Values",
    "evaluated",
    "trained",
]
