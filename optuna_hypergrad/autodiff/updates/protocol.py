"""The protocol of inner updates: hyperparameters, and one training step as a pure map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from optuna_hypergrad.arguments import check_can, checked_number, short
from optuna_hypergrad.schedules import Schedule

Hparam = float | Schedule
"""A hyperparameter: a number, or a schedule whose values can be learned."""
Values = Mapping[str, float | Tensor]
"""Values of the hyperparameters at one step, by name."""
State = tuple[Tensor, ...]
"""Tensors that an update carries from step to step."""


class Update(Protocol):
    """An inner update; contains no derivatives, see ``autodiff.updates``."""

    @property
    def hypers(self) -> Mapping[str, Hparam]:
        """Hyperparameters by name: numbers, or schedules whose values can be learned."""
        ...

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """Take one step, in differentiable torch operations of the arguments alone.

        Args:
            weights: All learned weights as one vector, shape (D,).
            state: ``()`` before the first step, then the state that the last step returned (of
                an earlier run, if one is continued): floating tensors of shape (D,), or () for
                what all weights share. Weights that the loss does not depend on, and their entries
                of the state (0 before the first step), stay unchanged, as in ``torch.optim``;
                a part of shape () then becomes one of shape (D,).
            gradient: Gradient of the training loss, shape (D,).
            hypers: Values of the hyperparameters at this step: floats for constants, tensors of
                shape () for learned ones, and of shape (D,) where weights differ
                (``ParameterGroups``).

        Returns:
            The new weights and the new state.
        """
        ...


def evaluated(update: Update, weights: Tensor, state: State) -> Tensor:
    """Return the weights to validate and to keep: ``update.evaluated``, if it has that method.

    Args:
        update: The inner update.
        weights: The trained weights, shape (D,).
        state: The state of the update.

    Returns:
        Weights of shape (D,); ``weights`` for an update without that method.

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
    """Return the weights to continue training from: the inverse of ``evaluated``.

    Args:
        update: The inner update.
        weights: The weights that a run left in the model, shape (D,).
        state: The state of the update at that point; ``()`` for a new run.

    Returns:
        Weights of shape (D,) by ``update.trained``; ``weights`` for an update without
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
            f"state: {update} has evaluated(weights, state), but lacks its inverse "
            "trained(weights, state), without which a run cannot be continued."
        )
    before: Tensor = own(weights, state)
    return before


def numbers(update: Update) -> dict[str, float]:
    """Attributes of an update and of what it wraps that are numbers, by name.

    Example:
        >>> from optuna_hypergrad.autodiff import SGD, Clipped
        >>> numbers(Clipped(SGD(0.1), value=1.0))["lr"]
        0.1
    """
    own: dict[str, Any] = dict(getattr(update, "__dict__", {}))
    inner = own.get("update")
    found = {} if inner is None else numbers(inner)
    return found | {name: value for name, value in own.items() if isinstance(value, int | float)}


def checked_state(update: Update, state: object, weights: Tensor, hypers: Values) -> State:
    """Return ``state`` on the device of ``weights``; require that ``update`` can continue from it.

    Its shapes and dtypes must be those that a step of ``update`` returns.
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
    """Require that a step from ``state`` leaves a state of the same shapes."""
    zeros = torch.zeros_like(weights)
    with torch.no_grad():
        fresh = _shapes(update(weights, (), zeros, hypers)[1])
        try:
            after = _shapes(update(weights, state, zeros, hypers)[1])
        except (ValueError, IndexError):  # the update unpacks another number of tensors
            after = fresh
    if after != _shapes(state) or len(fresh) > len(state):
        keeps = f"keeps tensors of shapes {fresh}" if fresh else "keeps no state"
        raise ValueError(
            "state must come from an update of the same kind: this "
            f"{type(update).__name__} {keeps}, got shapes {_shapes(state)}."
        )


def _shapes(state: State) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in state]


def checked_of_loss(hypers: Mapping[str, object]) -> dict[str, Hparam | Tensor]:
    """Return hyperparameters of the loss; require numbers, schedules, tensors and arrays."""
    found: dict[str, Hparam | Tensor] = {}
    for name, given in hypers.items():
        value = given
        if isinstance(given, np.ndarray) and given.dtype.kind in "fiu":
            value = torch.tensor(given.astype(float))
        if not isinstance(value, Tensor):
            found |= checked_hparams({name: value})
        elif value.is_floating_point():
            found[name] = value.detach()
        else:
            raise ValueError(f"{name} must be of floating numbers, got {value.dtype}.")
    return found


def checked_hparams(hypers: Mapping[str, object]) -> dict[str, Hparam]:
    """Return ``hypers``; require numbers and schedules."""
    found: dict[str, Hparam] = {}
    for name, value in hypers.items():
        if not isinstance(value, Schedule):
            value = checked_number(
                name, value, "be a number or a Schedule", lambda x: not math.isnan(x)
            )
        found[name] = value
    return found


def check_update(update: object) -> None:
    """Raise a ValueError, with advice for torch's optimizers, if ``update`` is not an update."""
    kind = update if isinstance(update, type) else type(update)
    is_ours = kind.__name__ in ("SGD", "Adam", "AdamW")
    example = f"{kind.__name__}(lr=0.1)" if is_ours else "an update of your own"
    expected = "one of this package's kind, for example SGD(0.1)"
    if issubclass(kind, torch.optim.Optimizer):
        raise ValueError(
            f"update must be {expected}, got torch.optim.{kind.__name__}: use {example} of "
            "optuna_hypergrad.autodiff, which takes schedules as hyperparameters and no parameters."
        )
    if isinstance(update, type) and hasattr(update, "hypers"):
        raise ValueError(f"update must be an instance, got the class: write {example}.")
    check_can("update", update, expected, "hypers")
