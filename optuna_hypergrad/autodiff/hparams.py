"""Hyperparameters of one run, those of the update and those of the loss, as tables over its steps.

Values and derivatives of all schedules are computed once, when the run is set up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.autodiff.updates.protocol import Hparam, Values
from optuna_hypergrad.logger import logger
from optuna_hypergrad.schedules import Schedule

Owner = Literal["update", "loss"]
Key = tuple[Owner, str]  # whose hyperparameter, and its name there


class HparamsAtStep(NamedTuple):
    """Values at one step: floats, or tensors of shape () where they are learned."""

    update: Values
    loss: Values


class RunHparams:
    """Hyperparameters h of a run of T steps, and the parameters λ of their schedules to learn.

    Args:
        update: Hyperparameters of the update.
        loss: Hyperparameters of the loss function.
        learn: Names of the trial parameters to differentiate; None for those of all schedules.
        steps: T.

    Raises:
        ValueError: If two different schedules share a name or a parameter, or ``learn`` contains
            a name that is not a parameter of a schedule.
    """

    def __init__(
        self,
        update: Mapping[str, Hparam],
        loss: Mapping[str, Hparam],
        learn: Collection[str] | None,
        steps: int,
    ) -> None:
        self.steps = steps
        self.all: dict[Key, Hparam] = {("update", k): h for k, h in update.items()}
        self.all |= {("loss", k): h for k, h in loss.items()}
        schedules = {key: h for key, h in self.all.items() if isinstance(h, Schedule)}
        names = _parameter_names(schedules.values())
        chosen = _checked_learn(names, learn)
        self.names = [name for name in names if name in chosen]
        self.learned = {k: h for k, h in schedules.items() if not chosen.isdisjoint(h.names)}
        self._values = {key: schedule.over(steps) for key, schedule in schedules.items()}
        self._tensors: dict[Key, Tensor] = {}  # those learned, as the weights' dtype and device
        self._derivatives = {k: h.gradients(steps) for k, h in self.learned.items()}  # (T, values)
        for key in self.learned:
            self._log_idle_windows(key)

    def learned_by(self, owner: Owner) -> list[str]:
        """Names of the learned hyperparameters of the update, or of the loss."""
        return [name for whose, name in self.learned if whose == owner]

    def at(self, step: int, like: Tensor) -> HparamsAtStep:
        """Values at ``step``; tensors have the dtype and device of ``like``."""
        if not self._tensors:
            self._tensors = {key: like.new_tensor(self._values[key]) for key in self.learned}
        values: dict[Owner, dict[str, float | Tensor]] = {"update": {}, "loss": {}}
        for key, hyper in self.all.items():
            owner, name = key
            if key in self.learned:
                values[owner][name] = self._tensors[key][step].clone()
            else:
                values[owner][name] = float(
                    self._values[key][step] if isinstance(hyper, Schedule) else hyper
                )
        return HparamsAtStep(values["update"], values["loss"])

    def derivatives(self, key: Key, step: int) -> dict[str, float]:
        """∂h/∂λ of one hyperparameter at ``step``, by learned parameter, where not 0."""
        row, names = self._derivatives[key][step], self.learned[key].names
        found = {names[i]: float(row[i]) for i in np.flatnonzero(row)}
        return {name: value for name, value in found.items() if name in self.names}

    def by_parameter(self, per_step: Mapping[Key, NDArray[np.float64]]) -> dict[str, float]:
        """Derivative by λ from the derivatives by h at each step, arrays of shape (T,)."""
        total = dict.fromkeys(self.names, 0.0)
        for key, by_value in per_step.items():
            # Not a product of matrices, whose rounding may depend on where they lie in memory.
            chained = (by_value[:, None] * self._derivatives[key]).sum(0)
            for name, part in zip(self.learned[key].names, chained.tolist(), strict=True):
                if name in total:
                    total[name] += part
        return total

    def by_parameter_at_end(self, by_value: Mapping[str, float]) -> dict[str, float]:
        """Derivative by λ from the derivatives by hyperparameters of the loss at the last step."""
        total = dict.fromkeys(self.names, 0.0)
        for hyper, outer in by_value.items():
            for name, inner in self.derivatives(("loss", hyper), self.steps - 1).items():
                total[name] += outer * inner
        return total

    def count_steps(self) -> Counter[str]:
        """Number of steps at which each learned parameter shapes a value."""
        counts: Counter[str] = Counter()
        for step in range(self.steps):
            counts.update({name for key in self.learned for name in self.derivatives(key, step)})
        return counts

    def _log_idle_windows(self, key: Key) -> None:
        """Log, once, a parameter to be learned that shapes no step."""
        schedule = self.learned[key]
        columns = zip(schedule.names, self._derivatives[key].T, strict=True)
        idle = [name for name, column in columns if name in self.names and not column.any()]
        if idle:
            _log_once(
                f"steps={self.steps}: {idle[0]!r} applies to no step, since the schedule "
                f"{schedule.name!r} has {schedule.windows} windows, so its hypergradient is 0. Use "
                "fewer windows, or more steps."
            )


@cache
def _log_once(message: str) -> None:
    logger.info(message)


def _parameter_names(schedules: Iterable[Schedule]) -> list[str]:
    """Names of all parameters; one schedule may serve several hyperparameters."""
    owner: dict[str, Schedule] = {}
    by_name: dict[str, Schedule] = {}
    for schedule in schedules:
        if by_name.setdefault(schedule.name, schedule) != schedule:
            raise ValueError(f"update and hypers: two schedules have the name {schedule.name!r}.")
        for name in schedule.names:
            if owner.setdefault(name, schedule) != schedule:
                message = f"update and hypers: two schedules share the parameter {name!r}."
                raise ValueError(message)
    return list(owner)


def _checked_learn(names: list[str], learn: Collection[str] | None) -> frozenset[str]:
    if isinstance(learn, str):
        raise ValueError(f"learn must be a collection of names, got the string {learn!r}.")
    check_kind("learn", learn, Collection | None, "a collection of names")
    unknown = [name for name in learn or () if name not in names]
    if unknown:
        raise ValueError(f"learn: {unknown[0]!r} is not a parameter of a schedule ({names}).")
    return frozenset(names if learn is None else learn)
