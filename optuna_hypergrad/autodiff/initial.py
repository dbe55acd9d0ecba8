"""The initial weights of a run as a function of hyperparameters of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import jacfwd

from optuna_hypergrad.autodiff.hparams import RunHparams
from optuna_hypergrad.autodiff.loss import TrainingLoss
from optuna_hypergrad.autodiff.second_order.hvp import forward_mode
from optuna_hypergrad.autodiff.updates import Values
from optuna_hypergrad.autodiff.weights import replaced

Initial = Callable[[Mapping[str, Tensor], Values], Mapping[str, Tensor]]


class InitialWeights:
    """The weights that a run begins with, and their derivatives.

    Args:
        function: New values for some of the weights that the model was given; see
            ``hypergradient``. None for those weights themselves.
        loss: The training loss.
        hypers: The hyperparameters of the run.
    """

    def __init__(self, function: Initial | None, loss: TrainingLoss, hypers: RunHparams) -> None:
        self._function, self._loss, self._hparams = function, loss, hypers
        self._given: Tensor  # known from ``of`` on, where there is a function

    def of(self, given: Tensor) -> Tensor:
        """The initial weights, shape (D,).

        Args:
            given: The weights that the model was given, shape (D,).
        """
        if self._function is None:
            return given
        self._given = given
        return self._weights(self._learned_values())

    def jacobian(self) -> dict[str, Tensor]:
        """∂(initial weights)/∂(value at step 0) by learned number of the loss, shape (D,)."""
        if self._function is None or not self._loss.learned:
            return {}
        with forward_mode:
            rows = jacfwd(self._weights)(self._learned_values()).T
        return dict(zip(self._loss.learned, rows, strict=True))

    def vjp(self, adjoint: Tensor) -> dict[str, Tensor]:
        """Derivatives by learned hyperparameters of the loss, of their shapes, at step 0.

        Args:
            adjoint: Derivative by the initial weights, shape (D,).
        """
        if self._function is None or not self._loss.learned:
            return {}
        values = self._learned_values().requires_grad_()
        with torch.enable_grad():
            weights = self._weights(values)
        if not weights.requires_grad:
            return {}
        (found,) = torch.autograd.grad(weights, values, adjoint)
        return dict(zip(self._loss.learned, self._loss.split(found), strict=True))

    def _learned_values(self) -> Tensor:
        """Values of the learned hyperparameters of the loss at step 0, shape (P,)."""
        values, like = self._hparams.at(0).loss, self._loss.weights.parameters[0]
        parts = [torch.as_tensor(values[name]).flatten() for name in self._loss.learned]
        return torch.cat([like.new_empty(0), *(part.to(like) for part in parts)])

    def _weights(self, learned: Tensor) -> Tensor:
        """The initial weights from the learned values, shape (D,)."""
        assert self._function is not None
        weights = self._loss.weights
        own = dict(zip(self._loss.learned, self._loss.split(learned), strict=True))
        values = {**self._hparams.at(0).loss, **own}
        by_name = dict(zip(weights.names, weights.split(self._given), strict=True))
        return replaced("initial", by_name, self._function(by_name, values))
