"""A scheduler of all hyperparameters of a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from optuna_hypergrad.arguments import check_can, check_kind, checked_count
from optuna_hypergrad.options import match_options
from optuna_hypergrad.schedules import Schedule


class HyperparameterScheduler:
    """Set the options of an optimizer to the values of schedules at every training step.

    Like ``torch.optim.lr_scheduler``, but for the learning rate, momentum, weight decay, betas and
    every other numeric option of the parameter groups. The constructor sets the values of step 0;
    call ``step()`` after each ``optimizer.step()``. After the last step the final values stay. No
    other scheduler should change the same options.

    Args:
        optimizer: A torch optimizer, or an object with the same ``param_groups``.
        schedules: Schedules by name of the hyperparameter, as from ``best_schedules``.
        steps: Number of optimizer steps of the whole run; schedules are stretched to it.
        uses: Options by hyperparameter, where the names differ:
            ``{"rate": "lr", "b": "betas.0", "head_lr": "1.lr"}``; the last is the second parameter
            group's alone. By default, the option of the same name in all groups; ``beta1`` and
            ``beta2`` are the parts of ``betas``.

    Raises:
        ValueError: If a hyperparameter has no option in the optimizer, or two have the same one.

    Example:
        >>> import torch
        >>> from optuna_hypergrad import Schedule, Schedules
        >>> from optuna_hypergrad.integrations import HyperparameterScheduler
        >>> optimizer = torch.optim.AdamW(torch.nn.Linear(2, 1).parameters())
        >>> found = Schedules([Schedule("lr", [0.3, 0.1]), Schedule("beta1", [0.8])])
        >>> scheduler = HyperparameterScheduler(optimizer, found, steps=2)
        >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]
        (0.3, (0.8, 0.999))
        >>> optimizer.step()
        >>> scheduler.step()
        >>> optimizer.param_groups[0]["lr"]
        0.1
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedules: Mapping[str, Schedule],
        steps: int,
        *,
        uses: Mapping[str, str] | None = None,
    ) -> None:
        check_can("optimizer", optimizer, "one of torch's", "param_groups", "state_dict")
        check_schedules(schedules, uses)
        self._optimizer, self._schedules = optimizer, dict(schedules)
        self._steps = checked_count("steps", steps)
        self._options = match_options([*schedules], uses or {}, optimizer.param_groups)
        self.set(0)

    @property
    def values(self) -> dict[str, float]:
        """Current values by hyperparameter."""
        step = min(self._step, self._steps - 1)
        return {name: schedule.at(step, self._steps) for name, schedule in self._schedules.items()}

    def step(self) -> None:
        """Set the values of the next step."""
        self.set(self._step + 1)

    def set(self, step: int) -> None:
        """Set the values for optimizer step ``step``, counted from 0."""
        self._step = checked_count("step", step, least=0)
        for name, value in self.values.items():
            self._options[name].write(self._optimizer.param_groups, value)

    def state_dict(self) -> dict[str, Any]:
        """Return the current step; the schedules are not included."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the values of the step at which ``state_dict`` was taken.

        Raises:
            ValueError: If ``state`` does not come from ``state_dict``.
        """
        if not isinstance(state, Mapping) or "step" not in state:
            raise ValueError(f"state must come from state_dict(), got {state!r:.60}.")
        self.set(state["step"])


def check_schedules(schedules: Any, uses: Any) -> None:
    """Raise a ValueError unless both are mappings by hyperparameter, or ``uses`` is None."""
    check_kind("schedules", schedules, Mapping, "schedules by name")
    for schedule in schedules.values():
        check_kind("schedules", schedule, Schedule, "schedules by name")
    check_kind("uses", uses, Mapping | None, "options by hyperparameter, or None")
