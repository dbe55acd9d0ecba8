"""SGD, Adam and AdamW as in torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_hypergrad.autodiff.updates.protocol import Hparam, State, Values, checked_hparams


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as in ``torch.optim.SGD``.

    q = g + μ·w;  v ← β·v + (1 − τ)·q, with v = q at the first step;  w ← w − α·v, or with Nesterov
    momentum w ← w − α·(q + β·v).

    Every hyperparameter is a number or a ``Schedule``, and may be negative: FDS searches learning
    rates from −1 to 1. For a weight that the loss first depends on at a later step, v starts from
    0, in torch from q; the two differ only with dampening.

    Args:
        lr: Learning rate α.
        momentum: Momentum β.
        weight_decay: Weight decay μ, added to the gradient (coupled L2) of every learned weight.
        dampening: Dampening τ of the momentum.
        nesterov: Use Nesterov momentum; requires a dampening of 0.
        keep_buffer: Whether v is updated at steps whose momentum is exactly 0. ``False`` is torch's
            rule: no momentum buffer, an undampened step along q, and a restart from the next
            gradient when a schedule leaves 0, a jump without a derivative. ``True`` follows the
            equations, as torch does with a momentum of 1e-30. ``None`` is ``True`` where momentum
            is learned, else ``False``. It matters only if a momentum schedule leaves 0, or with
            dampening and a momentum of 0. In ``ParameterGroups`` with different momenta all weights
            have a buffer, unless it is ``False`` and all momenta are 0.

    Raises:
        ValueError: If a hyperparameter is neither a number nor a schedule, or ``nesterov`` comes
            with dampening, as in torch.

    Reference:
        Momentum and weight decay as in FDS, Eq. 6; dampening and Nesterov as in torch.

    Example:
        >>> import torch
        >>> sgd = SGD(lr=0.1, momentum=0.9)
        >>> w, state = torch.tensor([1.0]), ()
        >>> for _ in range(2):   # two steps down w²/2
        ...     w, state = sgd(w, state, w, sgd.hypers)
        >>> w
        tensor([0.7200])
    """

    lr: Hparam
    momentum: Hparam = 0.0
    weight_decay: Hparam = 0.0
    dampening: Hparam = 0.0
    nesterov: bool = False
    keep_buffer: bool | None = None

    def __post_init__(self) -> None:
        checked_hparams(self.hypers)
        if self.nesterov and self.dampening != 0.0:
            raise ValueError(f"nesterov needs dampening=0.0, got {self.dampening!r}.")

    @property
    def hypers(self) -> dict[str, Hparam]:
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
        q = _plus(gradient, hypers["weight_decay"], weights)
        if isinstance(momentum, Tensor):
            has_buffer = self.keep_buffer is not False or bool((momentum != 0.0).any())
        else:
            has_buffer = bool(self.keep_buffer) or momentum != 0.0
        if not has_buffer:
            return weights - hypers["lr"] * q, state[:1]  # unchanged, as in torch
        # torch's first buffer is the undampened gradient.
        v = _plus(_plus(q, -dampening, q), momentum, state[0]) if state else q
        direction = _plus(q, momentum, v) if self.nesterov else v
        return weights - hypers["lr"] * direction, (v,)  # FDS Eq. 6


@dataclass(frozen=True)
class Adam:
    """Adam as in ``torch.optim.Adam``, with coupled weight decay.

    q = g + μ·w;  m ← β₁·m + (1 − β₁)·q;  s ← β₂·s + (1 − β₂)·q²;  t ← t + 1;
    m̂ = m / (1 − β₁ᵗ);  ŝ = s / (1 − β₂ᵗ);  w ← w − α·m̂ / (√ŝ + ε).

    Every hyperparameter is a number or a ``Schedule``. As in torch, β₁ᵗ and β₂ᵗ are powers of the
    current β, also when β changes during training. The derivative of √ŝ is taken as 0 where ŝ = 0
    (a weight without a gradient so far), which keeps tangents finite.

    Args:
        lr: Learning rate α.
        betas: (β₁, β₂), the decay of the two moments; hyperparameters ``beta1`` and ``beta2``.
        eps: ε.
        weight_decay: Weight decay μ, added to the gradient.
        amsgrad: Divide by the largest s so far instead of the current one.

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

    lr: Hparam = 1e-3
    betas: tuple[Hparam, Hparam] = (0.9, 0.999)
    eps: Hparam = 1e-8
    weight_decay: Hparam = 0.0
    amsgrad: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"betas must be a pair, got {self.betas!r}.")
        checked_hparams(self.hypers)

    @property
    def hypers(self) -> dict[str, Hparam]:
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
        q = _plus(gradient, hypers["weight_decay"], weights)
        direction, correction, state = self._direction(state, q, hypers)
        return weights - hypers["lr"] / correction * direction, state

    def _direction(self, state: State, q: Tensor, hypers: Values) -> tuple[Tensor, Tensor, State]:
        """Return m / (√ŝ + ε), the correction 1 − β₁ᵗ of m, and the new state."""
        beta1, beta2 = hypers["beta1"], hypers["beta2"]
        if not state:
            zeros = torch.zeros_like(q)
            state = (q.new_zeros(()), zeros, zeros, *([zeros] if self.amsgrad else []))
        t, m, s, *largest = state
        largest = largest if self.amsgrad else []  # checked_state rejects such a state
        t = t.detach() + 1  # a count, without a derivative
        m = torch.lerp(m, q, 1 - beta1)
        s = torch.lerp(s, q.square(), 1 - beta2)
        largest = [torch.maximum(before, s) for before in largest]
        precise = t.double()
        corrections = [_correction(beta, precise).to(t.dtype) for beta in (beta1, beta2)]
        root = _root([*largest, s][0] / corrections[1])
        return m / (root + hypers["eps"]), corrections[0], (t, m, s, *largest)


@dataclass(frozen=True)
class AdamW(Adam):
    """AdamW as in ``torch.optim.AdamW``: Adam with decoupled weight decay.

    w ← (1 − α·μ)·w, then Adam's step with q = g.

    Args:
        lr: Learning rate α.
        betas: (β₁, β₂), the decay of the two moments; hyperparameters ``beta1`` and ``beta2``.
        eps: ε.
        weight_decay: Weight decay μ, multiplied by the learning rate.
        amsgrad: Divide by the largest s so far instead of the current one.

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

    weight_decay: Hparam = 1e-2

    def __call__(
        self, weights: Tensor, state: State, gradient: Tensor, hypers: Values
    ) -> tuple[Tensor, State]:
        """One step; see ``Update``. The state is that of ``Adam``."""
        direction, correction, state = self._direction(state, gradient, hypers)
        decayed = (1 - hypers["lr"] * hypers["weight_decay"]) * weights
        return decayed - hypers["lr"] / correction * direction, state


def _plus(x: Tensor, factor: float | Tensor, y: Tensor) -> Tensor:
    """x + factor·y; not by addcmul, which rounds the ends of vectors differently."""
    if not isinstance(factor, Tensor) and factor == 0:
        return x
    return x + factor * y


def _correction(beta: float | Tensor, t: Tensor) -> Tensor:
    """Return the bias correction 1 − βᵗ.

    In double precision, as in torch: in single precision 1 − 0.999 has only four digits.
    """
    base = beta.double() if isinstance(beta, Tensor) else beta
    total: Tensor = 1 - base**t
    return total


def _root(squares: Tensor) -> Tensor:
    """√ with derivative 0 at 0, where that of ``torch.sqrt`` is infinite.

    Of the smallest normal number there, whose root vanishes beside ε.
    """
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
