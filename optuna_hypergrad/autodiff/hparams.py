"""The hyperparameters of one run: those of the update and those of the loss, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.autodiff.updates.protocol import Hyper, Values
from optuna_hypergrad.logger import get_logger
from optuna_hypergrad.schedules import Schedule

Owner = Literal["update", "loss"]
Key = tuple[Owner, str]  # whose hyperparameter, and its name there


@dataclass(frozen=True)
class HparamsAtStep:
    """The values at one step: floats where they are given, tensors of shape () where learned."""

    update: Values
    loss: Values


class RunHparams:
    """The hyperparameters of a run of ``steps`` steps, and which of their parameters are learned.

    Args:
        update: The update's hyperparameters.
        loss: The loss function's.
        learn: Names of the trial parameters to differentiate; None for those of all schedules.
        steps: Horizon of the run.

    Raises:
        ValueError: If two different schedules share their name or a parameter's, or ``learn`` names
            none of theirs.
    """

    def __init__(
        self,
        update: Mapping[str, Hyper],
        loss: Mapping[str, Hyper],
        learn: Collection[str] | None,
        steps: int,
    ) -> None:
        self.steps = steps
        self.all: dict[Key, Hyper] = {("update", k): h for k, h in update.items()}
        self.all |= {("loss", k): h for k, h in loss.items()}
        schedules = {key: h for key, h in self.all.items() if isinstance(h, Schedule)}
        names = _names(schedules.values())
        chosen = _chosen(names, learn)
        self.names = [name for name in names if name in chosen]
        self.learned = {
            key: schedule
            for key, schedule in schedules.items()
            if not chosen.isdisjoint(schedule.names)
        }
        for schedule in self.learned.values():
            self._check_windows(schedule)

    def _check_windows(self, schedule: Schedule) -> None:
        """Tell, once, of a parameter that is to be learned and has a say at no step."""
        if len(schedule.values) <= self.steps:
            return
        reached = sum(schedule.gradient(step, self.steps) for step in range(self.steps))
        pairs = zip(schedule.names, np.broadcast_to(reached, len(schedule.names)), strict=True)
        idle = [name for name, weight in pairs if not weight and name in self.names]
        if idle:
            _tell(
                f"steps={self.steps}: {idle[0]!r} applies to no step, since the schedule "
                f"{schedule.name!r} has {schedule.windows} windows, so its hypergradient is 0. Use "
                "fewer windows, or more steps."
            )

    def learned_by(self, owner: Owner) -> list[str]:
        """Names of the learned hyperparameters of the update, or of the loss."""
        return [name for whose, name in self.learned if whose == owner]

    def at(self, step: int, like: Tensor) -> HparamsAtStep:
        """Values at ``step``; tensors are of the dtype and device of ``like``."""
        values: dict[Owner, dict[str, float | Tensor]] = {"update": {}, "loss": {}}
        for (owner, name), hyper in self.all.items():
            value = hyper.at(step, self.steps) if isinstance(hyper, Schedule) else hyper
            learned = (owner, name) in self.learned
            values[owner][name] = like.new_tensor(value) if learned else float(value)
        return HparamsAtStep(values["update"], values["loss"])

    def slopes(self, key: Key, step: int) -> dict[str, float]:
        """∂(value of one hyperparameter at ``step``)/∂λ by learned parameter, where not 0."""
        schedule = self.learned[key]
        gradient = schedule.gradient(step, self.steps).tolist()
        pairs = zip(schedule.names, gradient, strict=True)
        return {name: slope for name, slope in pairs if slope and name in self.names}

    def chained(self, per_step: Mapping[Key, NDArray[np.float64]]) -> dict[str, float]:
        """Derivative by λ from that by the values at each step, arrays of shape (steps,)."""
        total = dict.fromkeys(self.names, 0.0)
        for key, slopes in per_step.items():
            for step, slope in enumerate(slopes.tolist()):
                for name, weight in self.slopes(key, step).items():
                    total[name] += weight * slope
        return total

    def direct(self, slopes: Mapping[str, float]) -> dict[str, float]:
        """Derivative by λ from that by the loss's values at the last step."""
        total = dict.fromkeys(self.names, 0.0)
        for hyper, slope in slopes.items():
            for name, weight in self.slopes(("loss", hyper), self.steps - 1).items():
                total[name] += weight * slope
        return total

    def steps_of(self) -> Counter[str]:
        """At how many steps each learned parameter has a say."""
        counts: Counter[str] = Counter()
        for step in range(self.steps):
            counts.update({name for key in self.learned for name in self.slopes(key, step)})
        return counts


@cache
def _tell(message: str) -> None:
    """Log a message the first time that it comes up in the process."""
    get_logger().info(message)


def _names(schedules: Collection[Schedule]) -> list[str]:
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


def _chosen(names: list[str], learn: Collection[str] | None) -> frozenset[str]:
    if isinstance(learn, str):
        raise ValueError(f"learn must be a collection of names, got the string {learn!r}.")
    check_kind("learn", learn, Collection | None, "a collection of names")
    unknown = [name for name in learn or () if name not in names]
    if unknown:
        raise ValueError(f"learn: {unknown[0]!r} is not a parameter of a schedule ({names}).")
    return frozenset(names if learn is None else learn)
