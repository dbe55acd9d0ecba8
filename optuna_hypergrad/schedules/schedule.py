"""Schedules: the values of a hyperparameter over a training run, and their derivatives."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad import arguments
from optuna_hypergrad.schedules import text_io

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Form = Literal["constant", "linear", "cosine"]


def check_form(form: str) -> None:
    """Raise a ValueError for an unknown form."""
    arguments.check_choice("form", form, get_args(Form))


def count_values(form: str, windows: int) -> int:
    """Number of values of a schedule: one per window if constant, else one per knot."""
    return windows if form == "constant" else windows + 1


def parameter_names(name: str, count: int) -> tuple[str, ...]:
    """Names of the trial parameters of a schedule with ``count`` values."""
    return (name,) if count == 1 else tuple(f"{name}_{i}" for i in range(count))


def interpolate(left: float, right: float, weight: float, log: bool) -> float:
    """Value between ``left`` and ``right``; ``weight`` in [0, 1] is that of ``right``.

    Example:
        >>> interpolate(1.0, 4.0, 0.5, log=False), interpolate(1.0, 4.0, 0.5, log=True)
        (2.5, 2.0)
    """
    if weight == 0.0:
        return left
    return left ** (1 - weight) * right**weight if log else (1 - weight) * left + weight * right


@dataclass(frozen=True)
class Schedule:
    """Values of one hyperparameter over a training run of any length.

    With *n* windows, a horizon of *T* steps and step *t*, the window is i = ⌊n·t/T⌋ and the
    position in it u = n·t/T − i. A constant schedule has the value ``values[i]``; a linear or
    cosine one moves from knot ``values[i]`` to knot ``values[i + 1]``. With ``log=True`` it moves
    geometrically.

    Args:
        name: The hyperparameter's name. The trial parameters are called ``name_0``, ``name_1``, …,
            or just ``name`` where there is only one.
        values: One value per window (constant) or per knot (linear, cosine: windows + 1), in the
            hyperparameter's own unit.
        form: ``"constant"``, ``"linear"`` or ``"cosine"``.
        log: Move between knots geometrically; the values must be positive.

    Raises:
        ValueError: If there are too few values, one is not finite, or not positive with ``log``.

    Example:
        >>> lr = Schedule("lr", [0.4, 0.2, 0.1])
        >>> lr.names, lr.windows
        (('lr_0', 'lr_1', 'lr_2'), 3)
        >>> lr.at(15, steps=30), lr.at(75, steps=150)   # the same fraction of a longer run
        (0.2, 0.2)
        >>> Schedule("lr", [1.0, 0.0], form="cosine").over(4).round(3).tolist()
        [1.0, 0.854, 0.5, 0.146]
    """

    name: str
    values: Sequence[float]
    form: Form = "constant"
    log: bool = False

    def __post_init__(self) -> None:
        arguments.check_name("name", self.name)
        arguments.check_kind("log", self.log, bool, "True or False")
        check_form(self.form)
        try:
            object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        except (TypeError, ValueError) as error:
            message = f"values must be a sequence of numbers, got {self.values!r}."
            raise ValueError(message) from error
        if self.windows < 1:
            least, count = count_values(self.form, 1), len(self.values)
            raise ValueError(f"values: a {self.form} schedule needs at least {least}, got {count}.")
        for name, value in self.params.items():
            if not math.isfinite(value) or (self.log and value <= 0.0):
                kind = "positive and finite (log=True)" if self.log else "finite"
                raise ValueError(f"values: {name} must be {kind}, got {value}.")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the trial parameters, one for each value."""
        return parameter_names(self.name, len(self.values))

    @property
    def params(self) -> dict[str, float]:
        """Values by the names of their trial parameters."""
        return dict(zip(self.names, self.values, strict=True))

    @cached_property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.values) - count_values(self.form, 0)

    def window(self, step: int, steps: int) -> int:
        """Index of the window of ``step`` in a run of ``steps`` steps."""
        _check_step(step, steps)
        return self.windows * step // steps

    def position(self, step: int, steps: int) -> tuple[int, int]:
        """Number of steps before ``step`` in its window, and the window's length."""
        window = self.window(step, steps)
        first, end = (-(-steps * i // self.windows) for i in (window, window + 1))
        return step - first, end - first

    def at(self, step: int, steps: int) -> float:
        """Value at ``step`` (counted from 0) of a run of ``steps`` steps."""
        if self.form == "constant":
            return self.values[self.window(step, steps)]
        _check_step(step, steps)
        return float(self._values_at(np.array([step]), steps)[0])

    def over(self, steps: int) -> Floats:
        """Values at every step of a run of ``steps`` steps, shape (steps,)."""
        return self._values_at(np.arange(arguments.checked_count("steps", steps)), steps)

    def gradient(self, step: int, steps: int) -> Floats:
        """Derivative of ``at(step, steps)`` with respect to each value, shape (len(values),)."""
        _check_step(step, steps)
        knots, derivatives = self._derivatives_at(np.array([step]), steps)
        gradient = np.zeros(len(self.values))
        np.add.at(gradient, knots[0], derivatives[0])
        return gradient

    def derivatives(self, steps: int) -> tuple[Integers, Floats]:
        """Derivatives of ``over(steps)``, each with respect to at most two values.

        Returns:
            The indices of these values and the derivatives, both of shape (steps, 2). The second
            derivative is 0 where a step depends on one value only.
        """
        return self._derivatives_at(np.arange(arguments.checked_count("steps", steps)), steps)

    def to_lambda_lr(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """A ``LambdaLR`` that gives every parameter group this schedule's learning rate.

        Call its ``step()`` after each of the ``steps`` optimizer steps; after the last one it
        holds the final value. Base learning rates that the optimizer had are replaced.
        """
        from torch.optim.lr_scheduler import LambdaLR

        arguments.check_can("optimizer", optimizer, "one of torch's", "param_groups", "state_dict")
        _check_step(0, steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = 1.0  # LambdaLR multiplies the initial rate
        return LambdaLR(optimizer, lambda step: self.at(min(step, steps - 1), steps))

    @property
    def record(self) -> dict[str, Any]:
        """Name, form, log and values, as JSON holds them."""
        values = list(self.values)
        return {"name": self.name, "form": self.form, "log": self.log, "values": values}

    @classmethod
    def from_record(cls, record: Any) -> Schedule:
        """Make a schedule from a ``record`` that was read from a text."""
        try:
            return cls(record["name"], record["values"], record["form"], record["log"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"text: not a schedule: {error!r}.") from error

    @classmethod
    def from_table(cls, record: Any, names: tuple[str, ...]) -> Schedule:
        """Make a schedule from a record and the parameters of its rows in a CSV table."""
        schedule = cls.from_record(record)
        if names != schedule.names:
            raise ValueError(f"text: expected rows for {schedule.names} in order, got {names}.")
        return schedule

    def to_json(self) -> str:
        """Write this schedule as a JSON object."""
        return json.dumps(self.record)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Read the schedule that ``to_json`` wrote."""
        return cls.from_record(text_io.read_json(text))

    def to_csv(self) -> str:
        """Write one row per value (name, form, log, parameter, value)."""
        return text_io.write_csv([self])

    @classmethod
    def from_csv(cls, text: str) -> Schedule:
        """Read the schedule that ``to_csv`` wrote."""
        tables = text_io.read_csv(text)
        if len(tables) != 1:
            raise ValueError(f"text: expected CSV of one schedule, got {len(tables)} of them.")
        return cls.from_table(*tables[0])

    def _values_at(self, step: Integers, steps: int) -> Floats:
        left, right, weight = self._knots(step, steps)
        knots = np.array(self.values)
        if not self.log:
            moving = (1 - weight) * knots[left] + weight * knots[right]
            return np.where(weight == 0.0, knots[left], moving)
        # Python's power: NumPy's may differ in the last bit between processors.
        triples = zip(knots[left].tolist(), knots[right].tolist(), weight.tolist(), strict=True)
        return np.array([interpolate(a, b, u, log=True) for a, b, u in triples])

    def _derivatives_at(self, step: Integers, steps: int) -> tuple[Integers, Floats]:
        left, right, weight = self._knots(step, steps)
        knots = np.stack([left, right], axis=1)
        derivatives = np.stack([1.0 - weight, weight], axis=1)
        if self.log:
            derivatives *= self._values_at(step, steps)[:, None] / np.array(self.values)[knots]
        return knots, derivatives

    def _knots(self, step: Integers, steps: int) -> tuple[Integers, Integers, Floats]:
        """Indices of the knots on both sides of each step, and the weight of the right one."""
        left = self.windows * step // steps
        right = np.minimum(left + 1, len(self.values) - 1)
        weight = self.windows * step / steps - left  # position in the window, in [0, 1)
        if self.form == "constant":
            weight = np.zeros_like(weight)
        elif self.form == "cosine":
            # math.cos: NumPy's may differ in the last bit between processors.
            weight = np.array([(1.0 - math.cos(math.pi * u)) / 2.0 for u in weight.tolist()])
        return left, right, weight


def _check_step(step: int, steps: int) -> None:
    arguments.checked_count("steps", steps)
    if not isinstance(step, Integral) or not 0 <= step < steps:
        raise ValueError(f"step must lie in 0 … {steps - 1} (steps={steps}), got {step}.")
