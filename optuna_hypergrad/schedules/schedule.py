"""The schedule of one hyperparameter."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from optuna_hypergrad.arguments import check_can, check_kind, check_name, checked_count
from optuna_hypergrad.schedules.forms import (
    BLEND,
    Form,
    blended,
    check_form,
    count_values,
    parameter_names,
)
from optuna_hypergrad.schedules.text_io import read_csv, read_json, write_csv

if TYPE_CHECKING:
    import torch


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
        check_name("name", self.name)
        check_kind("log", self.log, bool, "True or False")
        check_form(self.form)
        try:
            object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        except (TypeError, ValueError) as error:
            message = f"values must be a sequence of numbers, got {self.values!r}."
            raise ValueError(message) from error
        if self.windows < 1:
            raise ValueError(
                f"values: a {self.form} schedule needs at least {count_values(self.form, 1)}, "
                f"got {len(self.values)}."
            )
        for name, value in self.params.items():
            if not math.isfinite(value) or (self.log and value <= 0.0):
                kind = "positive and finite (log=True)" if self.log else "finite"
                raise ValueError(f"values: {name} must be {kind}, got {value}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the trial parameters, one for each value."""
        return parameter_names(self.name, len(self.values))

    @property
    def params(self) -> dict[str, float]:
        """The values by the names of their trial parameters."""
        return dict(zip(self.names, self.values, strict=True))

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.values) - count_values(self.form, 0)

    def window(self, step: int, steps: int) -> int:
        """Index of the window that ``step`` of a run of ``steps`` steps lies in."""
        _check_step(step, steps)
        return self.windows * step // steps

    def position(self, step: int, steps: int) -> tuple[int, int]:
        """How many steps of its window lie before ``step``, and how many it has in all."""
        window = self.window(step, steps)
        first, after = (-(-steps * i // self.windows) for i in (window, window + 1))
        return step - first, after - first

    def at(self, step: int, steps: int) -> float:
        """Value at ``step`` (counted from 0) of a run of ``steps`` steps."""
        left, right, blend = self._knots_at(step, steps)
        a, b = self.values[left], self.values[right]
        return blended(a, b, blend, self.log)

    def gradient(self, step: int, steps: int) -> NDArray[np.float64]:
        """Derivative of ``at(step, steps)`` with respect to each value, shape (len(values),)."""
        left, right, blend = self._knots_at(step, steps)
        gradient = np.zeros(len(self.values))
        for knot, weight in ((left, 1.0 - blend), (right, blend)):
            slope = self.at(step, steps) / self.values[knot] if self.log else 1.0
            gradient[knot] += weight * slope
        return gradient

    def over(self, steps: int) -> NDArray[np.float64]:
        """Values at every step of a run of ``steps`` steps, shape (steps,)."""
        checked_count("steps", steps)
        return np.array([self.at(step, steps) for step in range(steps)])

    def to_lambda_lr(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """A ``LambdaLR`` that gives every parameter group this schedule's learning rate.

        Call its ``step()`` after each of the ``steps`` optimizer steps; after the last one it
        holds the final value. Base learning rates that the optimizer had are replaced.
        """
        from torch.optim.lr_scheduler import LambdaLR

        check_can("optimizer", optimizer, "one of torch's", "param_groups", "state_dict")
        _check_step(0, steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = 1.0  # LambdaLR multiplies the initial rate
        return LambdaLR(optimizer, lambda step: self.at(min(step, steps - 1), steps))

    @property
    def record(self) -> dict[str, Any]:
        """What the schedule is, as plain values."""
        return {
            "name": self.name,
            "form": self.form,
            "log": self.log,
            "values": list(self.values),
        }

    @classmethod
    def from_record(cls, record: Any) -> Schedule:
        """The schedule of a ``record`` that was read from a text."""
        try:
            return cls(record["name"], record["values"], record["form"], record["log"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"text: not a schedule: {error!r}.") from error

    def to_json(self) -> str:
        """This schedule as a JSON object; ``Schedule.from_json`` reads it back."""
        return json.dumps(self.record)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """The schedule that ``to_json`` wrote."""
        return cls.from_record(read_json(text))

    def to_csv(self) -> str:
        """One line per value (name, form, log, parameter, value); ``from_csv`` reads it back."""
        return write_csv([self.record])

    @classmethod
    def from_csv(cls, text: str) -> Schedule:
        """The schedule that ``to_csv`` wrote."""
        records = read_csv(text)
        if len(records) != 1:
            raise ValueError(f"text: expected CSV of one schedule, got {len(records)} of them.")
        return cls.from_record(records[0])

    def _knots_at(self, step: int, steps: int) -> tuple[int, int, float]:
        window = self.window(step, steps)
        blend = BLEND[self.form](self.windows * step / steps - window)
        return window, min(window + 1, len(self.values) - 1), blend


def _check_step(step: int, steps: int) -> None:
    checked_count("steps", steps)
    if not isinstance(step, Integral) or not 0 <= step < steps:
        raise ValueError(f"step must lie in 0 … {steps - 1} (steps={steps}), got {step}.")
