"""Mutation of a clone's hyperparameters, by a learning teacher (HPM) or at random (PBT).

Hyperparameters are fractions of their ranges, u in [0, 1]ⁿ, measured from the lower bound (in log
space for log ranges), because a multiplicative weight cannot change a sign or leave zero.

=======  =========================================  ========
symbol   meaning                                    shape
=======  =========================================  ========
n, m     numbers of hyperparameters and of slots
u        hyperparameters before the mutation        (n,)
V        keys of the teacher                        (n, m)
W        values of the teacher                      (n, m)
a        attention σ(Vᵀu)                           (m,)
g        mutation weights 1 + tanh(W a), in (0, 2)  (n,)
=======  =========================================  ========
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from optuna_hypergrad.algorithms.ranges import Array

Activation = Literal["softmax", "leaky_relu"]
ACTIVATIONS = get_args(Activation)

SLOTS = 8  # m; small, since a teacher is stored with each trial
KEY_SCALE = 1.0  # initial standard deviation of V
LEARNING_RATE = 0.02
# With this decay, |W a| tends to about 0.02 / 0.1 while hypergradients agree: the weights 0.8 and
# 1.2 of population-based training. While they disagree, W tends to 0.
DECAY = 0.1
AVERAGING = 20  # steps over which the squared norm of the gradient is averaged
OUTLIER = 100.0  # largest multiple of the mean square that enters it: one outlier must not stop
# the teacher for hundreds of steps
LARGEST = 1e100  # of a gradient; squares of larger ones overflow
LEAK = 0.01  # derivative of the leaky ReLU below zero
FACTORS = (0.8, 1.2)


class Teacher(NamedTuple):
    """Weights φ of the teacher g, and the scale of its gradients so far."""

    keys: Array  # V, shape (n, m)
    values: Array  # W, shape (n, m)
    mean_square: float = 0.0  # running mean of ‖dL/dφ‖²
    steps: int = 0  # number of learning steps
    activation: Activation = "softmax"  # σ; "leaky_relu" makes it a multilayer perceptron


class Gradient(NamedTuple):
    """dL/dφ."""

    keys: Array  # by V, shape (n, m)
    values: Array  # by W, shape (n, m)


def identity(
    seeds: Sequence[Sequence[int]], activation: Activation = "softmax", slots: int = SLOTS
) -> Teacher:
    """Return the teacher with g = 1: W = 0, V normal.

    Args:
        seeds: One per hyperparameter, to draw its row of V.
        activation: σ: ``"softmax"``, attention over m keys; or ``"leaky_relu"``, which makes the
            teacher a multilayer perceptron (HPM, Table 2 of the rebuttal).
        slots: Number of slots m.
    """
    rows = [np.random.default_rng(seed).normal(0.0, KEY_SCALE, slots) for seed in seeds]
    keys = np.array(rows, dtype=float).reshape(len(seeds), slots)
    return Teacher(keys, np.zeros_like(keys), activation=activation)


def weights(teacher: Teacher, point: Array) -> Array:
    """Return mutation weights g(u) = 1 + tanh(W σ(Vᵀu)), each in (0, 2), for u of shape (n,).

    Reference:
        HPM, Eq. 9.

    Example:
        >>> teacher = identity([[0], [1]])
        >>> weights(teacher, np.array([0.3, 0.8]))
        array([1., 1.])
    """
    tanh: Array = np.tanh(teacher.values @ _attention(teacher, point))
    return 1.0 + tanh  # HPM Eq. 9


def mutate(teacher: Teacher, point: Array) -> Array:
    """Return u′ = g(u) ⊙ u, inside the bounds."""
    return np.clip(weights(teacher, point) * point, 0.0, 1.0)


def gradient(teacher: Teacher, point: Array, outer: Array) -> Gradient:
    """Return dL/dφ = dL/du′ · u ⊙ ∂g/∂φ, with the student frozen (HPM, Eq. 10).

    ``point`` is u, ``outer`` the hypergradient dL/du′ at u′ = g(u) ⊙ u, both of shape (n,).
    """
    a = _attention(teacher, point)
    by_tanh = outer * point * (1.0 - np.tanh(teacher.values @ a) ** 2)
    by_a = teacher.values.T @ by_tanh
    if teacher.activation == "softmax":
        by_key = a * (by_a - a @ by_a)
    else:
        by_key = by_a * np.where(a > 0, 1.0, LEAK)
    return Gradient(np.outer(point, by_key), np.outer(by_tanh, a))  # HPM Eq. 10


def learn(teacher: Teacher, point: Array, outer: Array) -> Teacher:
    """Take one step of the teacher against ``gradient``.

    The step is divided by the root mean square of the gradients so far, so that the unit of the
    loss does not matter, and small gradients near a minimum make small steps. W decays, so that
    the teacher forgets what hypergradients no longer confirm. Entries of ``outer`` that are not
    finite, or above 1e100, count as 0.

    Example:
        >>> teacher, u = identity([[0], [1]]), np.array([0.3, 0.8])
        >>> for _ in range(100):                  # the loss falls with u₀ and rises with u₁
        ...     teacher = learn(teacher, u, np.array([-1.0, 1.0]))
        >>> g = weights(teacher, u)
        >>> bool(1 < g[0] < 1.2 and 0.8 < g[1] < 1)
        True
    """
    known = np.abs(outer) < LARGEST  # neither NaN nor infinite
    step = gradient(teacher, point, np.where(known, outer, 0.0))
    square = float((step.keys**2).sum() + (step.values**2).sum())
    steps = teacher.steps + 1
    clipped = square
    if steps > AVERAGING and teacher.mean_square > 0:
        clipped = min(square, OUTLIER * teacher.mean_square)
    mean_square = teacher.mean_square + (clipped - teacher.mean_square) / min(steps, AVERAGING)
    norm = np.sqrt(max(square, mean_square))
    rate = LEARNING_RATE / norm if norm > 0 else 0.0
    return teacher._replace(
        keys=teacher.keys - rate * step.keys,
        values=(1.0 - DECAY) * (teacher.values - rate * step.values),
        mean_square=mean_square,
        steps=steps,
    )


def perturb(point: Array, rng: np.random.Generator) -> Array:
    """Multiply each u by 0.8 or 1.2 at random, inside the bounds (PBT)."""
    factors: Array = rng.choice(FACTORS, size=len(point))
    return np.clip(factors * point, 0.0, 1.0)


def _attention(teacher: Teacher, point: Array) -> Array:
    z = teacher.keys.T @ point
    if teacher.activation == "softmax":
        e = np.exp(z - z.max())
        attention: Array = e / e.sum()
        return attention
    return np.where(z > 0, z, LEAK * z)
