"""Operations with fast, exact second derivatives, and what it takes to differentiate twice."""

from optuna_hypergrad.autodiff.kernels.blame import unsupported
from optuna_hypergrad.autodiff.kernels.switching import (
    Kernels,
    candidates,
    kernels_for,
    second_derivatives,
)
from optuna_hypergrad.autodiff.kernels.trial import differentiate_twice

__all__ = [
    "Kernels",
    "candidates",
    "differentiate_twice",
    "kernels_for",
    "second_derivatives",
    "unsupported",
]
