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
    """Lightning callback that trains with schedules of learning rate, momentum, decay, betas.

    It sets the options of the module's optimizer before each optimizer step and thereby overrides
    learning rate schedulers of the module. A run resumed from a checkpoint continues at its step.

    Args:
        schedules: Schedules by name of the hyperparameter, as from ``best_schedules``.
        steps: Number of optimizer steps of the whole run; by default the trainer's estimate.
        uses: Options by hyperparameter; see ``HyperparameterScheduler``.

    Raises:
        ImportError: If lightning is not installed.
        ValueError: When training starts, if a hyperparameter has no option in the optimizer, the
            module has several optimizers, or the number of steps is unknown.

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
        """Find the optimizer's options."""
        if len(trainer.optimizers) != 1:
            count = len(trainer.optimizers)
            raise ValueError(
                f"optimizer: expected one, the module has {count}; use one HyperparameterScheduler "
                "for each in training_step."
            )
        known = self._steps or trainer.estimated_stepping_batches
        if math.isinf(known):
            raise ValueError("steps: the length of this training is unknown; pass steps.")
        self._scheduler = HyperparameterScheduler(
            trainer.optimizers[0],
            self._schedules,
            checked_count("steps", known),
            uses=self._uses,
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the values early, so that monitors see them."""
        self._scheduler.set(trainer.global_step)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Set them again, since a scheduler may have changed them."""
        self._scheduler.set(trainer.global_step)
