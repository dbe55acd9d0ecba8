"""Schedules set all hyperparameters of a torch optimizer, as a learning rate scheduler one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from optuna_hypergrad.arguments import check_can, check_kind, checked_count
from optuna_hypergrad.integrations.options import options
from optuna_hypergrad.schedules import Schedule


class HyperparameterScheduler:
    """Gives an optimizer the values of schedules at every step of a training run.

    Like ``torch.optim.lr_scheduler``, but for the learning rate, momentum, weight decay, betas and
    any other number among the options of its parameter groups. The values of step 0 are set at
    once; call ``step()`` after each of the optimizer's. After the last step it holds the final
    values. No other scheduler should move the same options.

    Args:
        optimizer: Any of torch's, or one with the same ``param_groups``.
        schedules: Schedules by the name of the hyperparameter, such as ``best_schedules`` gives.
        steps: Number of optimizer steps of the whole run, which the schedules are stretched to.
        uses: Which option of the optimizer is which hyperparameter, where the names differ:
            ``{"rate": "lr", "b": "betas.0", "head_lr": "1.lr"}``, the last one of the second group
            of parameters alone. By default, that of the same name in all groups; ``beta1`` and
            ``beta2`` are the parts of ``betas``.

    Raises:
        ValueError: If a hyperparameter is no option of the optimizer, or two are the same one; it
            names the option and those that there are.

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
        self._options = options([*schedules], uses or {}, optimizer.param_groups)
        self.set(0)

    @property
    def values(self) -> dict[str, float]:
        """The values that are set, by hyperparameter."""
        step = min(self._step, self._steps - 1)
        return {name: schedule.at(step, self._steps) for name, schedule in self._schedules.items()}

    def step(self) -> None:
        """Set the values of the next step."""
        self.set(self._step + 1)

    def set(self, step: int) -> None:
        """Set the values of a step, counted from 0: of the optimizer step that comes next."""
        self._step = checked_count("step", step, least=0)
        for name, value in self.values.items():
            self._options[name].write(self._optimizer.param_groups, value)

    def state_dict(self) -> dict[str, Any]:
        """Which step it is at; the schedules themselves are not part of it."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken: set the values of that step.

        Raises:
            ValueError: If ``state`` is something else.
        """
        if not isinstance(state, Mapping) or "step" not in state:
            raise ValueError(f"state must be what state_dict gave, got {state!r:.60}.")
        self.set(state["step"])


def check_schedules(schedules: Any, uses: Any) -> None:
    """ValueError unless these are schedules by name, and options by name."""
    check_kind("schedules", schedules, Mapping, "schedules by name")
    for schedule in schedules.values():
        check_kind("schedules", schedule, Schedule, "schedules by name")
    check_kind("uses", uses, Mapping | None, "options by hyperparameter, or None")
