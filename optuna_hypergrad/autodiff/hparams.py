"""Hyperparameters of one run as tables over its steps.

Values and derivatives of all schedules are computed once, when the run is set up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optuna_hypergrad.arguments import check_kind
from optuna_hypergrad.autodiff.updates.protocol import Hparam, Values
from optuna_hypergrad.logger import logger
from optuna_hypergrad.schedules import Schedule

Owner = Literal["update", "loss"]
Key = tuple[Owner, str]  # whose hyperparameter, and its name there


class HparamsAtStep(NamedTuple):
    """Values at one step: floats, or tensors of shape () where they are learned.

    What was given as a tensor is one of its own shape.
    """

    update: Values
    loss: Values


class RunHparams:
    """Hyperparameters h of a run of T steps, and the parameters λ of their schedules to learn.

    Args:
        update: Hyperparameters of the update.
        loss: Hyperparameters of the loss function. Tensors are the same at all steps.
        learn: Names of the trial parameters to differentiate; None or True for those of all
            schedules and all tensors, False for none.
        steps: T.
        like: A tensor of the dtype and device of the learned values; by default torch's.

    Raises:
        ValueError: If two different schedules share a name or a parameter, or ``learn`` contains
            a name that is not a parameter of a schedule.
    """

    def __init__(
        self,
        update: Mapping[str, Hparam],
        loss: Mapping[str, Hparam | Tensor],
        learn: Collection[str] | bool | None,
        steps: int,
        like: Tensor | None = None,
    ) -> None:
        self.steps = steps
        like = torch.empty(0) if like is None else like
        tensors = {k: h.to(like) for k, h in loss.items() if isinstance(h, Tensor)}
        self.all: dict[Key, Hparam] = {("update", k): h for k, h in update.items()}
        self.all |= {("loss", k): h for k, h in loss.items() if not isinstance(h, Tensor)}
        schedules = {key: h for key, h in self.all.items() if isinstance(h, Schedule)}
        self._names = {key: schedule.names for key, schedule in schedules.items()}
        names = _checked_names(schedules, self._names, tensors)
        self._chosen = _checked_learn([*names, *tensors], learn)
        self._tensors = tensors
        self.tensors = [name for name in tensors if name in self._chosen]
        """Names of the learned tensors."""
        self.names = [name for name in names if name in self._chosen]
        self.learned = {
            key: h for key, h in schedules.items() if not self._chosen.isdisjoint(self._names[key])
        }
        # By the two values that a step may depend on, their indices and the derivatives: (T, 2).
        self._derivatives = {key: h.derivatives(steps) for key, h in self.learned.items()}
        self._values: dict[Key, list[float] | float] = {}  # at all steps, or constant
        for key, hparam in self.all.items():
            if isinstance(hparam, Schedule) and key not in self.learned:
                self._values[key] = hparam.over(steps).tolist()
            elif not isinstance(hparam, Schedule):
                self._values[key] = float(hparam)
        over = [schedule.over(steps) for schedule in self.learned.values()]
        self._learned_values = like.new_tensor(np.array(over).reshape(len(over), steps).T)
        self._log_idle_windows()

    @property
    def is_learning(self) -> bool:
        """Whether anything is learned."""
        return bool(self.names or self.tensors)

    def names_of(self, key: Key) -> Sequence[str]:
        """Names of the parameters of a schedule."""
        return self._names[key]

    def learned_of_loss(self) -> dict[str, torch.Size]:
        """The learned hyperparameters of the loss and their shapes: numbers, then tensors."""
        numbers = {name: torch.Size() for owner, name in self.learned if owner == "loss"}
        return numbers | {name: self._tensors[name].shape for name in self.tensors}

    def at(self, step: int) -> HparamsAtStep:
        """Values at ``step``."""
        found: dict[Owner, dict[str, float | Tensor]] = {"update": {}, "loss": {}}
        for (owner, name), values in self._values.items():
            found[owner][name] = values if isinstance(values, float) else values[step]
        learned = self._learned_values[step].clone()  # which an update may change in place
        for (owner, name), value in zip(self.learned, learned.unbind(), strict=True):
            found[owner][name] = value
        found["loss"] |= {name: value.clone() for name, value in self._tensors.items()}
        return HparamsAtStep(found["update"], found["loss"])

    def derivatives(self, key: Key, step: int) -> dict[str, float]:
        """∂h/∂λ of one hyperparameter at ``step``, by learned parameter, where not 0."""
        names, (values, derivatives) = self._names[key], self._derivatives[key]
        pairs = zip(values[step].tolist(), derivatives[step].tolist(), strict=True)
        return {names[i]: d for i, d in pairs if d and names[i] in self._chosen}

    def by_parameter(self, per_step: Mapping[Key, NDArray[np.float64]]) -> dict[str, float]:
        """Derivative by λ from the derivatives by h at each step, arrays of shape (T,)."""
        return self._sums(per_step, lambda by_value, derivatives: by_value * derivatives)

    def by_parameter_at_end(self, by_value: Mapping[str, float]) -> dict[str, float]:
        """Derivative by λ from the derivatives by numbers of the loss at the last step."""
        total = dict.fromkeys(self.names, 0.0)
        for hparam, outer in by_value.items():
            for name, inner in self.derivatives(("loss", hparam), self.steps - 1).items():
                total[name] += outer * inner
        return total

    def mean_over_steps(self, values: NDArray[np.float64]) -> dict[str, float]:
        """Mean of values of the steps, shape (T,), over those that each λ shapes; 1 for none."""
        per_step = dict.fromkeys(self._derivatives, values)
        total = self._sums(per_step, lambda value, _: value)
        count = self._sums(per_step, lambda value, _: np.ones_like(value))
        return {name: total[name] / n if n else 1.0 for name, n in count.items()}

    def _sums(
        self,
        per_step: Mapping[Key, NDArray[np.float64]],
        term: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    ) -> dict[str, float]:
        """By λ, the sum of ``term(value, ∂h/∂λ)`` over the steps that it shapes."""
        total = dict.fromkeys(self.names, 0.0)
        for key, by_value in per_step.items():
            indices, derivatives = self._derivatives[key]
            inner = derivatives != 0  # 0 · ∞ would be NaN
            terms = term(by_value[:, None].repeat(2, axis=1)[inner], derivatives[inner])
            sums = np.bincount(indices[inner], terms, len(self._names[key]))
            for name, part in zip(self._names[key], sums.tolist(), strict=True):
                if name in total:
                    total[name] += part
        return total

    def count_steps(self) -> Counter[str]:
        """Number of steps at which each learned parameter shapes a value."""
        counts: Counter[str] = Counter()
        for step in range(self.steps):
            counts.update({name for key in self.learned for name in self.derivatives(key, step)})
        return counts

    def _log_idle_windows(self) -> None:
        """Log, once, parameters to be learned that shape no step."""
        for key, (values, derivatives) in self._derivatives.items():
            shaping = {self._names[key][i] for i in np.unique(values[derivatives != 0])}
            idle = [name for name in self._names[key] if name in self._chosen - shaping]
            if idle:
                schedule = self.learned[key]
                _log_once(
                    f"steps={self.steps}: {idle[0]!r} applies to no step, since the schedule "
                    f"{schedule.name!r} has {schedule.windows} windows, so its hypergradient is 0. "
                    "Use fewer windows, or more steps."
                )


@cache
def _log_once(message: str) -> None:
    logger.info(message)


def _checked_names(
    schedules: Mapping[Key, Schedule],
    names: Mapping[Key, Sequence[str]],
    tensors: Collection[str],
) -> list[str]:
    """Names of all parameters; one schedule may serve several hyperparameters."""
    owner: dict[str, Schedule] = {}
    by_name: dict[str, Schedule] = {}
    for key, schedule in schedules.items():
        if by_name.setdefault(schedule.name, schedule) != schedule:
            raise ValueError(f"update and hypers: two schedules have the name {schedule.name!r}.")
        for name in names[key]:
            if owner.setdefault(name, schedule) != schedule:
                message = f"update and hypers: two schedules share the parameter {name!r}."
                raise ValueError(message)
    if shared := [name for name in tensors if name in owner]:
        raise ValueError(f"hypers: a schedule has a parameter {shared[0]!r}, like a tensor.")
    return list(owner)


def _checked_learn(names: list[str], learn: Collection[str] | bool | None) -> frozenset[str]:
    if isinstance(learn, bool):
        return frozenset(names if learn else ())
    if isinstance(learn, str):
        raise ValueError(f"learn must be a collection of names, got the string {learn!r}.")
    check_kind("learn", learn, Collection | None, "a collection of names, True or False")
    unknown = [name for name in learn or () if name not in names]
    if unknown:
        known = f"a parameter of a schedule, nor a tensor ({names})"
        raise ValueError(f"learn: {unknown[0]!r} is not {known}.")
    return frozenset(names if learn is None else learn)
