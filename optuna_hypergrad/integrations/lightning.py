"""Schedules in Lightning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from optuna_hypergrad.arguments import checked_count, optional_import
from optuna_hypergrad.integrations.scheduler import HyperparameterScheduler, check_schedules
from optuna_hypergrad.schedules import Schedule

with optional_import("lightning", "integrations"):
    from lightning.pytorch import Callback, LightningModule, Trainer


class LightningSchedules(Callback):
    """A Lightning callback that trains with schedules: learning rate, momentum, decay, betas.

    Before each optimizer step the options of the module's optimizer are set; learning rate
    schedulers that the module configures lose against it. A run that is resumed from a checkpoint
    goes on at its step.

    Args:
        schedules: Schedules by the name of the hyperparameter, such as ``best_schedules`` gives.
        steps: Number of optimizer steps of the whole run; by default as the trainer estimates it.
        uses: Which option of the optimizer is which hyperparameter; see
            ``HyperparameterScheduler``.

    Raises:
        ImportError: If lightning is not installed.
        ValueError: When training starts, if a hyperparameter is no option of the optimizer, there
            are several optimizers, or the number of steps is not known.

    Example:
        >>> from optuna_hypergrad import Schedule, Schedules
        >>> found = Schedules([Schedule("lr", [0.3, 0.1]), Schedule("momentum", [0.9])])
        >>> callback = LightningSchedules(found)   # Trainer(callbacks=[callback])
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the options, or say which are missing."""
        if len(trainer.optimizers) != 1:
            count = len(trainer.optimizers)
            raise ValueError(
                f"optimizer: expected one, the module has {count}; give each its own "
                "HyperparameterScheduler in training_step."
            )
        known = self._steps or trainer.estimated_stepping_batches
        if math.isinf(known):
            raise ValueError("steps: this training has no end that is known; say how many.")
        self._scheduler = HyperparameterScheduler(
            trainer.optimizers[0],
            self._schedules,
            checked_count("steps", known),
            uses=self._uses,
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the values, for monitors to see."""
        self._scheduler.set(trainer.global_step)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Set them again, whoever changed them since."""
        self._scheduler.set(trainer.global_step)
