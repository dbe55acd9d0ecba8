"""Updates around another update: gradient clipping, weight averaging, projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optuna_hypergrad.arguments import check_callable, check_kind
from optuna_hypergrad.autodiff.updates import protocol
from optuna_hypergrad.autodiff.updates.protocol import Hparam, State, Update, Values
from optuna_hypergrad.autodiff.weights import FlatWeights, replaced


class Wrapper:
    """Base of updates around another one, ``update``; ``_own`` are their own hyperparameters."""

    update: Update

    @property
    def _own(self) -> Mapping[str, Hparam]:
        """Hyperparameters by name, without those of the wrapped update."""
        return {}

    @property
    def hypers(self) -> dict[str, Hparam]:
        """Hyperparameters by name: those of the wrapped update, and its own."""
        return {**self.update.hypers, **self._own}

    def _check(self) -> None:
        """Raise a ValueError if ``update`` is not an update, or has one of the hyperparameters."""
        protocol.check_update(self.update)
        taken = protocol.checked_hparams(self._own).keys() & self.update.hypers.keys()
        if taken:
            raise ValueError(f"update already has a hyperparameter {min(taken)!r}: {self.update}.")

    def evaluated(self, weights: Tensor, state: State) -> Tensor:
        """Return the weights to validate; see ``evaluated``."""
        return protocol.evaluated(self.update, weights, state)

    def trained(self, weights: Tensor, state: State) -> Tensor:
        """Return the weights to continue training from; see ``trained``."""
        return protocol.trained(self.update, weights, state)


@dataclass(frozen=True)
class Clipped(Wrapper):
    """An update with gradient clipping, by value, by norm, or both.

    By value c: gᵢ ← min(max(gᵢ, −c), c), as in ``torch.nn.utils.clip_grad_value_``. By norm c,
    after clipping by value: g ← g · min(1, c / (‖g‖ + 10⁻⁶)), as in
    ``torch.nn.utils.clip_grad_norm_``. Hypergradients are those of the clipped training, and
    include those with respect to c.

    Args:
        update: The update that gets the clipped gradient.
        value: Largest absolute value of an entry; hyperparameter ``clip_value``.
        norm: Largest Euclidean norm of the whole gradient; hyperparameter ``clip_norm``, the same
            for all parameter groups.

    Raises:
        ValueError: If both bounds are missing, one is neither a number nor a schedule, or
            ``update`` is not an update or has the same bound.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.autodiff.updates import SGD, Clipped
        >>> clipped = Clipped(SGD(lr=1.0), norm=1.0)
        >>> clipped(torch.zeros(2), (), torch.tensor([3.0, 4.0]), clipped.hypers)[0]
        tensor([-0.6000, -0.8000])
    """

    update: Update
    value: Hparam | None = None
    norm: Hparam | None = None

    def __post_init__(self) -> None:
        if not self._own:
            raise ValueError("value or norm must be given, got None for both.")
        self._check()

    @property
    def _own(self) -> dict[str, Hparam]:
        """The bounds by name."""
        bounds = {"clip_value": self.value, "clip_norm": self.norm}
        return {name: bound for name, bound in bounds.items() if bound is not None}

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """Take one step; see ``Update``."""
        if self.value is not None:
            bound = hypers["clip_value"]
            gradient = torch.where(gradient.abs() > bound, bound * gradient.sign(), gradient)
        if self.norm is not None:
            bound = hypers["clip_norm"]
            if isinstance(bound, Tensor) and bound.ndim:
                message = "clip_norm bounds the whole gradient; parameter groups cannot differ."
                raise ValueError(message)
            factor: Tensor = bound / (gradient.norm() + 1e-6)
            gradient = gradient * factor.clamp(max=1.0)
        return self.update(weights, state, gradient, hypers)


@dataclass(frozen=True)
class Averaged(Wrapper):
    """An update with an exponential moving average of the weights, used for validation.

    a ← κ·a + (1 − κ)·w after every step, with a = w after the first one, as in
    ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_avg_fn(κ)``. Training continues from w.
    The state holds δ = a − w, which is 0 for weights that have not moved. At a step whose loss does
    not depend on a weight, its δ stays as it is; torch's decays.

    Args:
        update: The update that moves the weights.
        decay: κ, the hyperparameter ``average_decay``; 0 averages nothing.

    Raises:
        ValueError: If ``decay`` is neither a number nor a schedule, or ``update`` is not an update
            or averages already.

    Example:
        >>> import torch
        >>> from optuna_hypergrad.autodiff import SGD, Averaged
        >>> update, gradient = Averaged(SGD(1.0), decay=0.5), torch.ones(1)
        >>> weights, state = torch.zeros(1), ()
        >>> for _ in range(2):                      # w is −1, then −2
        ...     weights, state = update(weights, state, gradient, update.hypers)
        >>> update.evaluated(weights, state)        # a = 0.5 · (−1) + 0.5 · (−2)
        tensor([-1.5000])
    """

    update: Update
    decay: Hparam

    def __post_init__(self) -> None:
        self._check()

    @property
    def _own(self) -> dict[str, Hparam]:
        """The decay by its name."""
        return {"average_decay": self.decay}

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """Take one step; see ``Update``. The state is δ, then the wrapped update's."""
        new, inner = self.update(weights, state[1:], gradient, hypers)
        if not state:
            return new, (torch.zeros_like(new), *inner)
        # a − w after the step, where a is the average of a before and w after.
        return new, (hypers["average_decay"] * (state[0] + weights - new), *inner)

    def evaluated(self, weights: Tensor, state: State) -> Tensor:
        """Return the averaged weights, shape (D,)."""
        return weights + state[0] if state else weights

    def trained(self, weights: Tensor, state: State) -> Tensor:
        """Return the trained weights, shape (D,), for averaged ones."""
        return weights - state[0] if state else weights


Projection = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Projected(Wrapper):
    """An update with a projection of some weights, as in projected gradient descent.

    w ← P(w) after every step of the update: clipped critics, non-negative weights, bounded norms.
    Hypergradients are those of the projected training.

    Args:
        update: The update that moves the weights.
        model: The trained model. Which of its parameters require a gradient must not change
            afterwards.
        projection: Returns new values of some weights, given all of them by name as in
            ``named_parameters``. It must use differentiable torch operations, such as ``clamp``,
            and leave its argument unchanged.

    Raises:
        ValueError: If ``update`` is not an update, ``model`` not a module or ``projection`` not
            callable. At a step, if ``projection`` returns a weight that is not learned, or has
            another shape.

    Reference:
        Levitin and Polyak, "Constrained minimization methods", 1966 (the gradient projection
        method).

    Example:
        >>> import torch
        >>> from optuna_hypergrad.autodiff import SGD, Projected
        >>> model = torch.nn.Linear(2, 1)
        >>> bounded = Projected(SGD(1.0), model, lambda w: {"weight": w["weight"].clamp(-0.5, 0.5)})
        >>> bounded(torch.zeros(3), (), torch.tensor([3.0, 0.1, 2.0]), bounded.hypers)[0]
        tensor([-0.5000, -0.1000, -2.0000])
    """

    def __init__(self, update: Update, model: nn.Module, projection: Projection) -> None:
        self.update = update
        self._check()
        check_kind("model", model, nn.Module, "a torch.nn.Module")
        check_callable("projection", projection)
        self._projection, self._weights = projection, FlatWeights(model)

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """Take one step; see ``Update``."""
        new, state = self.update(weights, state, gradient, hypers)
        by_name = dict(zip(self._weights.names, self._weights.split(new), strict=True))
        return replaced("projection", by_name, self._projection(by_name)), state
