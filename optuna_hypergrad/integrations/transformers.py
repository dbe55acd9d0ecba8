"""Schedules in Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna_hypergrad.arguments import checked_count, optional_import
from optuna_hypergrad.integrations.scheduler import HyperparameterScheduler, check_schedules
from optuna_hypergrad.schedules import Schedule

with optional_import("transformers", "integrations"):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TransformersSchedules(TrainerCallback):
    """Callback of ``transformers.Trainer`` that trains with schedules.

    It sets the options of the trainer's optimizer before each optimizer step and thereby overrides
    the trainer's own learning rate scheduler; the trainer logs the rate in use. A run resumed from
    a checkpoint continues at its step.

    The trainer makes two parameter groups and decays only the first: not biases and normalisation.
    ``uses={"weight_decay": "0.weight_decay"}`` keeps it so; by default both groups decay, as in a
    search whose update decays every weight.

    Args:
        schedules: Schedules by name of the hyperparameter, as from ``best_schedules``.
        steps: Number of optimizer steps of the whole run; by default the trainer's ``max_steps``.
        uses: Options by hyperparameter; see ``HyperparameterScheduler``.

    Raises:
        ImportError: If transformers is not installed.
        ValueError: When training starts, if a hyperparameter has no option in the optimizer.

    Example:
        >>> from optuna_hypergrad import Schedule, Schedules
        >>> found = Schedules([Schedule("lr", [3e-4, 1e-4]), Schedule("beta1", [0.9])])
        >>> callback = TransformersSchedules(found)   # Trainer(callbacks=[callback], …)
    """

    def __init__(
        self,
        schedules: Mapping[str, Schedule],
        *,
        steps: int | None = None,
        uses: Mapping[str, str] | None = None,
    ) -> None:
        check_schedules(schedules, uses)
        self._schedules, self._uses = schedules, uses
        self._steps = None if steps is None else checked_count("steps", steps)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the optimizer's options."""
        self._scheduler = HyperparameterScheduler(
            kwargs["optimizer"], self._schedules, self._steps or state.max_steps, uses=self._uses
        )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the values, also in the trainer's own scheduler, whose rate is logged."""
        self._scheduler.set(state.global_step)
        scheduler = kwargs["lr_scheduler"]
        scheduler = getattr(scheduler, "scheduler", scheduler)  # in accelerate's wrapper
        scheduler._last_lr = [group["lr"] for group in kwargs["optimizer"].param_groups]
