"""Twenty functions with gradients in closed form, half of them set aside.

None has its minimum at zero or in the centre of its box: those that have one there by definition
are shifted, some are rotated as well. ``CHOSEN`` are the functions on which the defaults of
PopulationSampler were chosen, ``SET_ASIDE`` those on which they are judged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import synthetic
from synthetic import Array, Evaluated

Function = Callable[[Array], Evaluated]


class Problem(NamedTuple):
    """A function to be minimised inside a box."""

    function: Function
    low: Array
    high: Array
    argmin: Array
    noise: float = 0.0  # standard deviation of the gradient's noise, over that of its entries

    @property
    def minimum(self) -> float:
        return float(self.function(self.argmin)[0])

    def gradient(self, x: Array, value_and_gradient: Evaluated) -> Array:
        """The gradient as it is reported: with noise that depends on the point alone."""
        exact = value_and_gradient[1]
        if not self.noise:
            return exact
        rng = np.random.default_rng(np.frombuffer(x.tobytes(), np.uint32))
        scale = self.noise * float(np.linalg.norm(exact)) / np.sqrt(len(x))
        return exact + rng.normal(0.0, scale, len(x))

    def scale(self) -> float:
        """The median value of random points above the minimum: the unit of gaps."""
        points = np.random.default_rng(0).uniform(self.low, self.high, (1000, len(self.low)))
        return float(np.median([self.function(x)[0] for x in points])) - self.minimum


def rosenbrock(x: Array) -> Evaluated:
    bend, slack = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    gradient = np.zeros_like(x)
    gradient[:-1] = -400 * x[:-1] * bend - 2 * slack
    gradient[1:] += 200 * bend
    return (100 * bend**2 + slack**2).sum(), gradient


def griewank(x: Array) -> Evaluated:
    roots = np.sqrt(np.arange(1, len(x) + 1))
    cosines, sines = np.cos(x / roots), np.sin(x / roots)
    others = np.array([np.delete(cosines, i).prod() for i in range(len(x))])
    return (x**2).sum() / 4000 - cosines.prod() + 1, x / 2000 + sines / roots * others


def styblinski_tang(x: Array) -> Evaluated:
    return (x**4 - 16 * x**2 + 5 * x).sum() / 2, (4 * x**3 - 32 * x + 5) / 2


def levy(x: Array) -> Evaluated:
    w, pi = 1 + (x - 1) / 4, np.pi
    inner, last = w[:-1], w[-1]
    wave = 10 * np.sin(pi * inner + 1) ** 2
    gradient = np.zeros_like(x)
    gradient[0] = 2 * np.sin(pi * w[0]) * np.cos(pi * w[0]) * pi
    slope = 20 * np.sin(pi * inner + 1) * np.cos(pi * inner + 1) * pi
    gradient[:-1] += 2 * (inner - 1) * (1 + wave) + (inner - 1) ** 2 * slope
    sine, cosine = np.sin(2 * pi * last), np.cos(2 * pi * last)
    gradient[-1] += 2 * (last - 1) * (1 + sine**2) + (last - 1) ** 2 * 4 * pi * sine * cosine
    value = np.sin(pi * w[0]) ** 2 + ((inner - 1) ** 2 * (1 + wave)).sum()
    return value + (last - 1) ** 2 * (1 + sine**2), gradient / 4


def bowl(x: Array) -> Evaluated:
    """A quadratic whose curvatures span two decades."""
    curvatures = np.logspace(0, 2, len(x))
    return (curvatures * x**2).sum(), 2 * curvatures * x


def schwefel(x: Array) -> Evaluated:
    root = np.sqrt(np.abs(x))
    value = 418.9828872724338 * len(x) - (x * np.sin(root)).sum()
    return value, -np.sin(root) - root * np.cos(root) / 2


def michalewicz(x: Array) -> Evaluated:
    i = np.arange(1, len(x) + 1)
    angle = i * x**2 / np.pi
    sine, cosine = np.sin(angle), np.cos(angle)
    gradient = np.cos(x) * sine**20 + np.sin(x) * 20 * sine**19 * cosine * 2 * i * x / np.pi
    return -(np.sin(x) * sine**20).sum(), -gradient


def alpine(x: Array) -> Evaluated:
    """Alpine N. 1, whose slope jumps at each minimum."""
    wave = x * np.sin(x) + 0.1 * x
    return np.abs(wave).sum(), np.sign(wave) * (np.sin(x) + x * np.cos(x) + 0.1)


def dixon_price(x: Array) -> Evaluated:
    i = np.arange(2, len(x) + 1)
    bend = 2 * x[1:] ** 2 - x[:-1]
    gradient = np.zeros_like(x)
    gradient[0] = 2 * (x[0] - 1)
    gradient[1:] += 8 * i * bend * x[1:]
    gradient[:-1] -= 2 * i * bend
    return (x[0] - 1) ** 2 + (i * bend**2).sum(), gradient


def salomon(x: Array) -> Evaluated:
    """Rings around the minimum."""
    norm = max(float(np.linalg.norm(x)), 1e-12)
    slope = 2 * np.pi * np.sin(2 * np.pi * norm) + 0.1
    return 1 - np.cos(2 * np.pi * norm) + 0.1 * norm, slope * x / norm


SHEKEL = np.array(
    [
        [4, 1, 8, 6, 3, 2, 5, 8, 6, 7],
        [4, 1, 8, 6, 7, 9, 3, 1, 2, 3.6],
        [4, 1, 8, 6, 3, 2, 5, 8, 6, 7],
        [4, 1, 8, 6, 7, 9, 3, 1, 2, 3.6],
    ]
).T
SHEKEL_WIDTHS = 0.1 * np.array([1, 2, 2, 4, 4, 6, 3, 7, 5, 5])


def shekel(x: Array) -> Evaluated:
    depth = 1 / (((x - SHEKEL) ** 2).sum(axis=1) + SHEKEL_WIDTHS)
    return -depth.sum(), (2 * (x - SHEKEL) * depth[:, None] ** 2).sum(axis=0)


def lunacek(x: Array) -> Evaluated:
    """Rastrigin's ripples over two bowls, of which the wider one is not the deeper one."""
    n, mean = len(x), 2.5
    s = 1 - 1 / (2 * np.sqrt(n + 20) - 8.2)
    other = -np.sqrt((mean**2 - 1) / s)
    deep, wide = ((x - mean) ** 2).sum(), n + s * ((x - other) ** 2).sum()
    ripples = 10 * (1 - np.cos(2 * np.pi * (x - mean))).sum()
    bowls = 2 * (x - mean) if deep <= wide else 2 * s * (x - other)
    return min(deep, wide) + ripples, bowls + 20 * np.pi * np.sin(2 * np.pi * (x - mean))


class Wells(NamedTuple):
    """Gaussian wells of different depth and width; the first is the deepest."""

    centres: Array
    widths: Array
    depths: Array

    @classmethod
    def drawn(cls, n: int, dims: int, seed: int) -> Wells:
        rng = np.random.default_rng(seed)
        depths = np.array([1.0, *rng.uniform(0.3, 0.8, n - 1)])
        return cls(rng.uniform(0.1, 0.9, (n, dims)), rng.uniform(0.1, 0.25, n), depths)

    def __call__(self, x: Array) -> Evaluated:
        away = x - self.centres
        wells = self.depths * np.exp(-(away**2).sum(axis=1) / (2 * self.widths**2))
        return -wells.sum(), (wells[:, None] * away / self.widths[:, None] ** 2).sum(axis=0)

    def argmin(self) -> Array:
        """Where the deepest well ends, by the fixed point of its gradient."""
        x: Array = self.centres[0]
        for _ in range(200):
            away = ((x - self.centres) ** 2).sum(axis=1)
            weights = self.depths * np.exp(-away / (2 * self.widths**2)) / self.widths**2
            x = weights @ self.centres / weights.sum()
        return x


def cube(function: Function, low: float, high: float, argmin: Array, noise: float = 0.0) -> Problem:
    """A problem in a box with equal sides."""
    n = len(argmin)
    return Problem(function, np.full(n, low), np.full(n, high), argmin, noise)


def moved(function: Function, half: float, dims: int, seed: int, **options: float) -> Problem:
    """A function with its minimum at zero, moved off the centre of [-half, half]ⁿ."""
    rng = np.random.default_rng(seed)
    shift = half * rng.choice([-1, 1], dims) * rng.uniform(0.15, 0.7, dims)
    return cube(lambda x: function(x - shift), -half, half, shift, **options)


def turned(function: Function, half: float, dims: int, seed: int, **options: float) -> Problem:
    """The same, rotated by a random orthogonal matrix."""
    rotation, _ = np.linalg.qr(np.random.default_rng([seed, 1]).normal(size=(dims, dims)))

    def rotated(x: Array) -> Evaluated:
        value, gradient = function(rotation @ x)
        return value, rotation.T @ gradient

    return moved(rotated, half, dims, seed, **options)


def known(name: str) -> Problem:
    """A problem of examples/synthetic.py as it is."""
    return Problem(*synthetic.PROBLEMS[name])


WELLS = Wells.drawn(12, 4, seed=0)
MICHALEWICZ = np.array([2.20290552, 1.57079633, 1.28499157, 1.92305847, 1.72046977])
DIXON_PRICE = 2.0 ** -(1 - 0.5 ** np.arange(5))  # x₁ = 1, and xᵢ = √(xᵢ₋₁ / 2)

CHOSEN = {
    "Branin, 2": known("Branin"),
    "Hartmann, 6": known("Hartmann-6"),
    "Rastrigin, 4": moved(synthetic.rastrigin, 5.12, 4, seed=1),
    "Ackley, 4": moved(synthetic.ackley, 32.768, 4, seed=2),
    "Rosenbrock, 4": cube(rosenbrock, -3.0, 2.0, np.ones(4)),
    "Griewank, 6": moved(griewank, 30.0, 6, seed=3),
    "Styblinski–Tang, 5": cube(styblinski_tang, -5.0, 5.0, np.full(5, -2.903534)),
    "Lunacek, rotated, 4": turned(lambda x: lunacek(x + 2.5), 5.0, 4, seed=4),
    "wells, 4": cube(WELLS, 0.0, 1.0, WELLS.argmin()),
    "bowl, noisy, 8": turned(bowl, 5.0, 8, seed=5, noise=1.0),
}
SET_ASIDE = {
    "Levy, 6": cube(levy, -10.0, 8.0, np.ones(6)),
    "Schwefel, 4": cube(schwefel, -500.0, 500.0, np.full(4, 420.968746)),
    "Michalewicz, 5": cube(michalewicz, 0.0, np.pi, MICHALEWICZ),
    "Alpine, 5": moved(alpine, 10.0, 5, seed=6),
    "Rastrigin, rotated, 6": turned(synthetic.rastrigin, 5.12, 6, seed=7),
    "bowl, rotated, 10": turned(bowl, 5.0, 10, seed=8),
    "Dixon–Price, 5": cube(dixon_price, -5.0, 4.0, DIXON_PRICE),
    "Salomon, 4": moved(salomon, 5.0, 4, seed=9),
    "Shekel, 4": cube(shekel, 0.0, 10.0, np.array([4.000747, 3.999510] * 2)),
    "Rastrigin, noisy, 3": moved(synthetic.rastrigin, 5.12, 3, seed=10, noise=1.0),
}
