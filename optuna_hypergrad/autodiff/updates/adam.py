"""Adam, and AdamW with its decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.updates.protocol import Hyper, State, Values, checked_hypers


@dataclass(frozen=True)
class Adam:
    """Adam as in ``torch.optim.Adam``, with coupled weight decay.

    q = g + μ·w;  m ← β₁·m + (1 − β₁)·q;  s ← β₂·s + (1 − β₂)·q²;  t ← t + 1;
    m̂ = m / (1 − β₁ᵗ);  ŝ = s / (1 − β₂ᵗ);  w ← w − α·m̂ / (√ŝ + ε).

    Every hyperparameter is a number or a ``Schedule``. As in torch, β₁ᵗ and β₂ᵗ are powers of the
    present β, also where β changes during training. The derivative of √ŝ counts as 0 where ŝ is 0
    (a weight that has had no gradient yet), so that tangents stay finite there. Steps are counted
    in the dtype of the weights, of which half precision has too few digits.

    Args:
        lr: Learning rate α.
        betas: (β₁, β₂), the decay of the two moments; hyperparameters ``beta1`` and ``beta2``.
        eps: ε.
        weight_decay: Weight decay μ, added to the gradient.
        amsgrad: Divide by the largest s so far instead of the present one.

    Raises:
        ValueError: If a hyperparameter is neither a number nor a schedule, or ``betas`` no pair.

    Reference:
        Kingma and Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 1; amsgrad as
        in Reddi et al., "On the convergence of Adam and beyond", 2018, and as in torch.

    Example:
        >>> import torch
        >>> adam = Adam(lr=0.1)
        >>> w, state = torch.tensor([1.0]), ()
        >>> for _ in range(2):   # two steps down w²/2, each nearly as long as lr
        ...     w, state = adam(w, state, w, adam.hypers)
        >>> w
        tensor([0.8004])
    """

    lr: Hyper = 1e-3
    betas: tuple[Hyper, Hyper] = (0.9, 0.999)
    eps: Hyper = 1e-8
    weight_decay: Hyper = 0.0
    amsgrad: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"betas must be a pair, got {self.betas!r}.")
        checked_hypers(self.hypers)

    @property
    def hypers(self) -> dict[str, Hyper]:
        """The hyperparameters by name."""
        return {
            "lr": self.lr,
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step; see ``Update``. The state is (t, m, s), with amsgrad (t, m, s, largest s)."""
        slope = gradient + hypers["weight_decay"] * weights  # q
        direction, state = self._direction(state, slope, hypers)
        return weights - hypers["lr"] * direction, state

    def _direction(self, state: State, slope: Tensor, hypers: Values) -> tuple[Tensor, State]:
        """m̂ / (√ŝ + ε) and the new state."""
        beta1, beta2 = hypers["beta1"], hypers["beta2"]
        t, m, s, *largest = state or self._start(slope)
        largest = largest if self.amsgrad else []  # of another run's state, which is then refused
        t = t + 1
        m = beta1 * m + (1 - beta1) * slope
        s = beta2 * s + (1 - beta2) * slope.square()
        largest = [torch.maximum(before, s) for before in largest]
        root = _root([*largest, s][0] / _correction(beta2, t))
        return m / _correction(beta1, t) / (root + hypers["eps"]), (t, m, s, *largest)

    def _start(self, like: Tensor) -> State:
        zeros = torch.zeros_like(like)
        return (like.new_zeros(()), zeros, zeros, *([zeros] if self.amsgrad else []))


@dataclass(frozen=True)
class AdamW(Adam):
    """AdamW as in ``torch.optim.AdamW``: Adam whose weight decay stays out of the moments.

    w ← (1 − α·μ)·w, then Adam's step with q = g.

    Args:
        lr: Learning rate α.
        betas: (β₁, β₂), the decay of the two moments; hyperparameters ``beta1`` and ``beta2``.
        eps: ε.
        weight_decay: Weight decay μ, multiplied by the learning rate.
        amsgrad: Divide by the largest s so far instead of the present one.

    Raises:
        ValueError: If a hyperparameter is neither a number nor a schedule, or ``betas`` no pair.

    Reference:
        Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, Algorithm 2, without
        its separate multiplier η, as in torch.

    Example:
        >>> import torch
        >>> adamw = AdamW(lr=0.1, weight_decay=0.5)
        >>> adamw(torch.tensor([1.0]), (), torch.tensor([1.0]), adamw.hypers)[0]
        tensor([0.8500])
    """

    weight_decay: Hyper = 1e-2

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step; see ``Update``. The state is that of ``Adam``."""
        direction, state = self._direction(state, gradient, hypers)
        decayed = (1 - hypers["lr"] * hypers["weight_decay"]) * weights
        return decayed - hypers["lr"] * direction, state


def _correction(beta: float | Tensor, t: Tensor) -> Tensor:
    """1 − βᵗ, what the weights of a decaying average add up to after t steps.

    In double precision, as in torch: in single precision 1 − 0.999 has only four digits.
    """
    base = beta.double() if isinstance(beta, Tensor) else beta
    total: Tensor = 1 - base ** t.double()
    return total.to(t.dtype)


def _root(squares: Tensor) -> Tensor:
    """√ with derivative 0 at 0, where that of ``torch.sqrt`` is infinite."""
    zero = squares == 0
    # The inner choice keeps 0 out of √: a product of an infinite derivative and 0 would be NaN.
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())
