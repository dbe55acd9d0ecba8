"""Hypergradients of training runs in torch; knows nothing of Optuna."""

from optuna_hypergrad.autodiff.forward import ForwardMode, Hypergradient
from optuna_hypergrad.autodiff.training import hypergradient
from optuna_hypergrad.autodiff.updates import SGD, Update

__all__ = ["SGD", "ForwardMode", "Hypergradient", "Update", "hypergradient"]
