"""What an inner update is: its hyperparameters, and one training step as a pure map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from optuna_hypergrad.arguments import check_can, checked_number, short
from optuna_hypergrad.schedules import Schedule

Hyper = float | Schedule
"""A hyperparameter as it is given: a number, or a schedule whose values can be learned."""
Values = Mapping[str, float | Tensor]
"""The hyperparameters' values at one step."""
State = tuple[Tensor, ...]
"""What an update remembers between steps."""


class Update(Protocol):
    """What an inner update offers. It never names a derivative: see ``autodiff.updates``."""

    @property
    def hypers(self) -> Mapping[str, Hyper]:
        """The hyperparameters by name: numbers, or schedules whose values can be learned."""
        ...

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step, in torch operations that can be differentiated and depend on nothing else.

        Args:
            weights: All learned weights as one vector, shape (D,).
            state: ``()`` before the first step (or what an earlier run ended with, where one is
                continued), then what the step before gave: floating tensors
                of shape (D,), or () for what all weights share. Where the loss does not reach a
                weight, it and its entries of the state stay as they are (0 before the first
                step), as with ``torch.optim``; then a part of shape () comes back as (D,).
            gradient: Gradient of the training loss, shape (D,).
            hypers: Values of the hyperparameters at this step: a float where it is given, a
                tensor of shape () where it is learned, and of shape (D,) where it differs between
                the weights (``ParameterGroups``).

        Returns:
            The new weights and the new state.
        """
        ...


def evaluated(update: Update, weights: Tensor, state: State) -> Tensor:
    """The weights to validate and to keep: those of ``update.evaluated``, if it has that method.

    Args:
        update: The inner update.
        weights: The weights that are trained, shape (D,).
        state: What the update remembers.

    Returns:
        Weights of shape (D,); for an update that says nothing of it, ``weights`` themselves.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.autodiff.updates import SGD, Averaged, evaluated
        >>> averaged = Averaged(SGD(lr=0.5), decay=0.5)
        >>> w, state = torch.tensor([1.0]), ()
        >>> for _ in range(2):   # down w²/2: 1, then 1/2, then 1/4
        ...     w, state = averaged(w, state, w, averaged.hypers)
        >>> w, evaluated(averaged, w, state)
        (tensor([0.2500]), tensor([0.3750]))
    """
    own = getattr(update, "evaluated", None)
    return weights if own is None else own(weights, state)


def trained(update: Update, weights: Tensor, state: State) -> Tensor:
    """The weights to train on from, where ``weights`` are those of ``evaluated``: its inverse.

    Args:
        update: The inner update.
        weights: What a run has left in the model, shape (D,).
        state: What the update remembered then; ``()`` at a start from nothing.

    Returns:
        Weights of shape (D,), by ``update.trained``; ``weights`` themselves for an update without
        ``evaluated``.

    Raises:
        ValueError: If the update has ``evaluated``, but not ``trained``.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.autodiff.updates import SGD, Averaged, evaluated, trained
        >>> averaged, w, state = Averaged(SGD(lr=0.5), decay=0.5), torch.tensor([0.25]), (
        ...     torch.tensor([0.125]),
        ... )
        >>> trained(averaged, evaluated(averaged, w, state), state)
        tensor([0.2500])
    """
    if not state or not hasattr(update, "evaluated"):
        return weights
    own = getattr(update, "trained", None)
    if own is None:
        raise ValueError(
            f"state: {update} has evaluated(weights, state), but no trained(weights, state) that "
            "gives back the weights to train on from; a run cannot be continued without it."
        )
    before: Tensor = own(weights, state)
    return before


def checked_state(update: Update, state: object, weights: Tensor, hypers: Values) -> State:
    """``state`` where the weights are, or a ValueError that says why ``update`` cannot use it.

    Args:
        update: The inner update.
        state: What an earlier run ended with.
        weights: The weights that are trained, shape (D,).
        hypers: Values of the update's hyperparameters at the first step.
    """
    if not isinstance(state, tuple | list) or not all(isinstance(p, Tensor) for p in state):
        raise ValueError(f"state must be a tuple of tensors, or None, got {short(state)}.")
    for i, part in enumerate(state):
        if part.shape not in ((), weights.shape):
            raise ValueError(
                f"state[{i}] must have shape {tuple(weights.shape)}, a number for each learned "
                f"weight of the model, or (), got {tuple(part.shape)}."
            )
        if part.dtype != weights.dtype:
            raise ValueError(
                f"state[{i}] must be {weights.dtype} as the weights, got {part.dtype}."
            )
    parts = tuple(part.detach().to(weights.device) for part in state)
    if parts:
        _check_continues(update, parts, weights, hypers)
    return parts


def _check_continues(update: Update, state: State, weights: Tensor, hypers: Values) -> None:
    """A step from ``state`` must leave a state of the same shapes, or it is another update's."""
    zeros = torch.zeros_like(weights)
    with torch.no_grad():
        fresh = _shapes(update(weights, (), zeros, hypers)[1])
        try:
            kept = _shapes(update(weights, state, zeros, hypers)[1])
        except (ValueError, IndexError):  # of an update that unpacks another number of tensors
            kept = fresh
    if kept != _shapes(state) or len(fresh) > len(state):
        keeps = f"keeps tensors of shapes {fresh}" if fresh else "keeps no state"
        raise ValueError(
            "state must be what an update of the same kind has left: this "
            f"{type(update).__name__} {keeps}, got shapes {_shapes(state)}."
        )


def _shapes(state: State) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in state]


def checked_hypers(hypers: Mapping[str, object]) -> dict[str, Hyper]:
    """``hypers``, or a ValueError that names the first that is no number and no schedule."""
    return {name: _checked(name, value) for name, value in hypers.items()}


def check_update(update: object) -> None:
    """Raise a ValueError where ``update`` is none."""
    _check_no_optimizer(update)
    check_can("update", update, "one of this package's kind, for example SGD(0.1)", "hypers")


def _check_no_optimizer(update: object) -> None:
    kind = update if isinstance(update, type) else type(update)
    own = kind.__name__ if kind.__name__ in ("SGD", "Adam", "AdamW") else "an update of your own"
    if issubclass(kind, torch.optim.Optimizer):
        made = own if own != kind.__name__ else f"{own}(lr=0.1)"
        raise ValueError(
            "update must be one of this package's kind, for example SGD(0.1), got "
            f"torch.optim.{kind.__name__}: use {made} of optuna_hypergrad.autodiff, whose "
            "hyperparameters may be schedules and which is given no parameters."
        )
    if isinstance(update, type) and hasattr(update, "hypers"):
        raise ValueError(
            f"update must be one of this package's kind, got the class {own}: write {own}(lr=0.1)."
        )


def check_wrapped(update: Update, own: Mapping[str, Hyper]) -> None:
    """Raise a ValueError where ``update`` cannot be wrapped by one with hyperparameters ``own``."""
    check_update(update)
    taken = checked_hypers(own).keys() & update.hypers.keys()
    if taken:
        raise ValueError(f"update has a hyperparameter {min(taken)!r} already: {update}.")


def _checked(name: str, value: object) -> Hyper:
    if isinstance(value, Schedule):
        return value
    return checked_number(name, value, "be a number or a Schedule", lambda x: not math.isnan(x))
