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
    """A callback of ``transformers.Trainer`` that trains with schedules.

    Before each optimizer step the options of the trainer's optimizer are set, so that the trainer's
    own learning rate scheduler loses against it; the trainer logs the rate that is used. A run that
    is resumed from a checkpoint goes on at its step.

    The trainer makes two groups of parameters, of which only the first decays: biases and
    normalisation do not. ``uses={"weight_decay": "0.weight_decay"}`` keeps it so; by default, as
    in a search whose update decays every weight, both groups decay.

    Args:
        schedules: Schedules by the name of the hyperparameter, such as ``best_schedules`` gives.
        steps: Number of optimizer steps of the whole run; by default the trainer's ``max_steps``.
        uses: Which option of the optimizer is which hyperparameter; see
            ``HyperparameterScheduler``.

    Raises:
        ImportError: If transformers is not installed.
        ValueError: When training starts, if a hyperparameter is no option of the optimizer.

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
        """Find the options, or say which are missing."""
        self._scheduler = HyperparameterScheduler(
            kwargs["optimizer"], self._schedules, self._steps or state.max_steps, uses=self._uses
        )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the values, and tell the trainer's own scheduler, whose rate is what is logged."""
        self._scheduler.set(state.global_step)
        scheduler = kwargs["lr_scheduler"]
        scheduler = getattr(scheduler, "scheduler", scheduler)  # in accelerate's wrapper
        scheduler._last_lr = [group["lr"] for group in kwargs["optimizer"].param_groups]
