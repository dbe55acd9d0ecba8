"""Discrete choices in a loss with a derivative: relaxed, or relaxed only in the derivative.

For hyperparameters of the loss. Random numbers come from torch's generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.distributions import RelaxedBernoulli

_relaxed = ContextVar("relaxed", default=False)


class _StraightThrough(Function):
    """Forwards the first input, backwards the second; in hypergradients, too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient

    @staticmethod
    def jvp(ctx: Any, hard: Tensor | None, soft: Tensor) -> Tensor:
        return soft


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """``hard``, with the derivative of ``soft`` wherever a derivative is taken.

    ``soft + (hard - soft).detach()`` has this derivative in the training gradient alone, while a
    hypergradient is that of the training that ran, in which ``hard`` is constant or jumps. With
    this function, hypergradients and the validation loss take ``soft`` for ``hard`` as well.

    Args:
        hard: Of any shape.
        soft: Of the same shape.

    Reference:
        Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic
        neurons", 2013.

    Example:
        >>> import torch
        >>> x = torch.tensor(0.3, requires_grad=True)
        >>> y = straight_through((x > 0).float(), torch.sigmoid(x))
        >>> float(y.detach()), round(float(torch.autograd.grad(y, x)[0]), 4)
        (1.0, 0.2445)
    """
    if _relaxed.get():
        return soft
    result: Tensor = _StraightThrough.apply(hard.detach(), soft)
    return result


@contextmanager
def relaxed() -> Iterator[None]:
    """Within it, ``straight_through`` gives ``soft``, whose derivative differences agree with.

    Example:
        >>> import torch
        >>> with relaxed():
        ...     straight_through(torch.tensor(1.0), torch.tensor(0.3))
        tensor(0.3000)
    """
    token = _relaxed.set(True)
    try:
        yield
    finally:
        _relaxed.reset(token)


def rounded(value: Tensor) -> Tensor:
    """The nearest integer, with the derivative of ``value`` itself (straight-through).

    For an integer hyperparameter that is used in arithmetic; its derivative says how the loss would
    change if ``value`` could lie between integers.

    Args:
        value: Of any shape.

    Example:
        >>> import torch
        >>> h = torch.tensor(2.7, requires_grad=True)
        >>> y = 3 * rounded(h)
        >>> float(y.detach()), float(torch.autograd.grad(y, h)[0])
        (9.0, 3.0)
    """
    return straight_through(value.round(), value)


def chosen(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """A random choice with probabilities softmax(logits), as a one-hot vector.

    Its derivative is that of the relaxed choice softmax((logits + G) / temperature), with G
    Gumbel noise (straight-through). Multiply the alternatives by it and add them up.

    Args:
        logits: Shape (…, choices).
        temperature: If small, the derivative is accurate but often huge or 0; if large, it is
            smooth but biased.

    Reference:
        Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017.

    Example:
        >>> import torch
        >>> chosen(torch.tensor([0.0, 100.0, 0.0]))
        tensor([0., 1., 0.])
    """
    soft = F.gumbel_softmax(logits, temperature)  # with hard=True, torch detaches
    hard = F.one_hot(soft.detach().argmax(-1), logits.shape[-1]).to(soft.dtype)
    return straight_through(hard, soft)


def relaxed_dropout(x: Tensor, rate: Tensor | float, temperature: float = 0.1) -> Tensor:
    """Dropout whose masks are nearly 0 or 1, so that the rate has a derivative.

    Multiplies each entry by a sample of ``torch.distributions.RelaxedBernoulli``, which tends to a
    mask of mean 1 − p as the temperature falls, and divides by 1 − p.

    Args:
        x: Of any shape.
        rate: Probability p of an entry to be dropped, in (0, 1); shape ().
        temperature: Of the relaxation.

    Reference:
        Gal, Hron and Kendall, "Concrete dropout", 2017, Section 3.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> rate = torch.tensor(0.25, requires_grad=True)
        >>> kept = relaxed_dropout(torch.ones(10_000), rate)
        >>> abs(float(kept.detach().mean()) - 1.0) < 0.02
        True
        >>> bool(torch.autograd.grad(kept[0], rate)[0].isfinite())
        True
    """
    kept = 1 - torch.as_tensor(rate, dtype=x.dtype, device=x.device)
    # Checks of arguments would branch on values, which torch.func cannot.
    mask = RelaxedBernoulli(x.new_tensor(temperature), probs=kept, validate_args=False)
    return x * mask.rsample(x.shape) / kept
