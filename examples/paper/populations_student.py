"""A network in training, plain or a hypernetwork, and where its first segment starts."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial
from populations_jobs import Batch, Data, Job, draw
from torch import Tensor

from optuna_hypergrad.hypernet import (
    Bounded,
    Conditioning,
    HyperDropout,
    HyperTraining,
    convert,
)

TEACHING_STEPS = 20  # of a teacher, for each clone
LARGER = 4  # batches of reported hypergradients, than those of training


class Starts(RandomSampler):
    """First segments start at random in the lower part of the ranges; seeded by trial and name.

    With many rates of dropout at once from the whole range, networks of this depth learn nothing.
    """

    def __init__(self, seed: int, fraction: float) -> None:
        super().__init__()
        self.seed, self.fraction = seed, fraction

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> float:
        rng = np.random.default_rng([self.seed, trial.number, zlib.crc32(param_name.encode())])
        low, high = param_distribution.low, param_distribution.high
        return float(low + self.fraction * (high - low) * rng.random())


class Student:
    """A network in training: plain, or a hypernetwork."""

    def __init__(self, job: Job, is_plain: bool, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.job = job
        transforms = {name: Bounded(*bounds) for name, bounds in job.ranges.items()}
        lowest = {name: low for name, (low, _) in job.ranges.items()}
        self.conditioning, self.model = Conditioning(transforms, lowest), job.network().to(device)
        self.training: HyperTraining | None = None
        if is_plain:
            self.conditioning.centre = self.conditioning.centre.to(device)
            for module in self.model.modules():
                if isinstance(module, HyperDropout):
                    module.condition(self.conditioning)
        else:
            self.model = convert(self.model, self.conditioning)
        self.optimizer = job.optimizer(self.model)
        if not is_plain:
            self.training = HyperTraining(self.model, job.loss, self.optimizer, lr=job.lr)

    @property
    def parts(self) -> dict[str, Any]:
        """Of a checkpoint."""
        parts = {"student": self.model, "optimizer": self.optimizer, "training": self.training}
        return {name: part for name, part in parts.items() if part is not None}

    def train(self, data: Data, steps: int, validates: bool) -> None:
        """Train for some steps, with validation steps in between or without."""
        size, training = self.job.batch_size, self.training
        for _ in range(steps):
            batch = draw(data.train, size)
            if training is None:
                self.optimizer.zero_grad()
                self.job.loss(self.model, batch).backward()
                self.optimizer.step()
            elif validates:
                training.step(batch, draw(data.validation, size))
            else:
                training.train_step(batch)

    def hypergradient(self, data: Data) -> dict[str, float]:
        """Of the validation loss on a larger batch, at the current hyperparameters."""
        assert self.training is not None
        return self.training.hypergradient(draw(data.validation, LARGER * self.job.batch_size))

    def hypergradient_at(self, data: Data, values: dict[str, Any]) -> dict[str, float]:
        """Of the validation loss on a batch, with the frozen weights' response to ``values``."""
        transforms = self.conditioning.transforms
        moved = [transforms[name].unconstrain(values[name]) for name in transforms]
        point = self.conditioning.centre.new_tensor(moved).requires_grad_()
        loss = self.validation_loss(draw(data.validation, self.job.batch_size), point)
        outer = torch.autograd.grad(loss, point)[0]
        inner = torch.autograd.grad(self.conditioning.natural(point).sum(), point)[0]
        return dict(zip(transforms, (outer / inner).tolist(), strict=True))

    def validation_loss(self, batch: Batch, point: Tensor) -> Tensor:
        """Without regularisation, where the weights respond to unconstrained hyperparameters."""
        self.model.eval()
        with self.conditioning.at(point):
            loss = self.job.loss(self.model, batch)
        self.model.train()
        return loss

    def fractions(self) -> Tensor:
        """The hyperparameters as fractions of their ranges, which all begin at 0."""
        return torch.sigmoid(self.conditioning.centre)

    def set_fractions(self, fractions: Tensor) -> None:
        """Set the hyperparameters to fractions of their ranges."""
        pairs = zip(self.job.ranges.items(), fractions.tolist(), strict=True)
        self.conditioning.set_values({name: u * high for (name, (_, high)), u in pairs})
