"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from optuna_hypergrad.autodiff.updates.protocol import Hyper, State, Values, checked_hypers


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as in ``torch.optim.SGD``.

    q = g + μ·w;  v ← β·v + (1 − τ)·q, with v = q at the first step;  w ← w − α·v, or with Nesterov
    momentum w ← w − α·(q + β·v).

    Every hyperparameter is a number or a ``Schedule``, and may be negative: a learning rate that
    is searched from −1 to 1 is the paper's setting. A weight that the loss first reaches at a
    later step finds v at 0 there, where torch starts from q; only with dampening do the two differ.

    Args:
        lr: Learning rate α.
        momentum: Momentum β.
        weight_decay: Weight decay μ, added to the gradient (coupled L2) of every learned weight.
        dampening: Dampening τ of the momentum.
        nesterov: Look ahead; needs a dampening of 0.
        keep_buffer: What happens at a step whose momentum is exactly 0. torch keeps no momentum
            buffer there: it steps along q undampened, and a schedule that later leaves 0 starts
            from the first gradient after. That jump has no derivative. ``False`` does as torch
            does, ``True`` keeps v going as the equations say (torch does too for a momentum of
            1e-30), and ``None`` keeps it exactly where momentum is learned. Only a momentum
            schedule that leaves 0, or a dampening beside a momentum of 0, can tell them apart.
            Inside ``ParameterGroups`` that differ in momentum all weights have a buffer, unless it
            is ``False`` and all momenta are 0.

    Raises:
        ValueError: If a hyperparameter is neither a number nor a schedule, or with ``nesterov``
            and a dampening other than 0, as in torch.

    Reference:
        Momentum and weight decay as in FDS, Eq 6; dampening and Nesterov as in torch.

    Example:
        >>> import torch
        >>> sgd = SGD(lr=0.1, momentum=0.9)
        >>> w, state = torch.tensor([1.0]), ()
        >>> for _ in range(2):   # two steps down w²/2
        ...     w, state = sgd(w, state, w, sgd.hypers)
        >>> w
        tensor([0.7200])
    """

    lr: Hyper
    momentum: Hyper = 0.0
    weight_decay: Hyper = 0.0
    dampening: Hyper = 0.0
    nesterov: bool = False
    keep_buffer: bool | None = None

    def __post_init__(self) -> None:
        checked_hypers(self.hypers)
        if self.nesterov and self.dampening != 0.0:
            raise ValueError(f"nesterov needs dampening=0.0, got {self.dampening!r}.")

    @property
    def hypers(self) -> dict[str, Hyper]:
        """The hyperparameters by name."""
        return {
            "lr": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "dampening": self.dampening,
        }

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step; see ``Update``."""
        momentum, dampening = hypers["momentum"], hypers["dampening"]
        slope = gradient + hypers["weight_decay"] * weights  # q
        if not self._has_buffer(momentum):
            return weights - hypers["lr"] * slope, state[:1]  # kept as it is, as torch keeps it
        # torch's first buffer is the undampened gradient.
        velocity = momentum * state[0] + (1 - dampening) * slope if state else slope
        direction = slope + momentum * velocity if self.nesterov else velocity
        return weights - hypers["lr"] * direction, (velocity,)

    def _has_buffer(self, momentum: float | Tensor) -> bool:
        if not isinstance(momentum, Tensor):
            return bool(self.keep_buffer) or momentum != 0.0
        return self.keep_buffer is not False or bool((momentum != 0.0).any())
