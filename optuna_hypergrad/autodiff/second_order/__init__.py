"""Operations with fast, exact second derivatives, and what it takes to differentiate twice."""

from __future__ import annotations

from optuna_hypergrad.autodiff.second_order.double_differentiable import (
    differentiate_twice,
    unsupported,
)
from optuna_hypergrad.autodiff.second_order.switching import (
    Kernels,
    candidates,
    kernels_for,
    second_derivatives,
)

__all__ = [
    "Kernels",
    "candidates",
    "differentiate_twice",
    "kernels_for",
    "second_derivatives",
    "unsupported",
]
