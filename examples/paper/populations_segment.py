"""One segment of a member: what it trains, what it reports, and what each part costs."""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial
from populations_jobs import Batch, Data, Job, draw, evaluate
from torch import nn

from optuna_hypergrad import members, report_hypergradient, trial_seed
from optuna_hypergrad.hypernet import (
    Bounded,
    Conditioning,
    HyperDropout,
    HyperTraining,
    convert,
)

SECONDS, MEASURED = "seconds", "measured"  # attributes of trials
TEACHING_STEPS = 5  # of the teacher, for each clone
LARGER = 4  # batches of reported hypergradients, than those of training


@dataclass(frozen=True)
class Method:
    """Arguments of PopulationSampler, and what the objective does.

    Args:
        sampler: The arguments.
        is_plain: Whether members are plain networks, otherwise hypernetworks.
        has_hypertraining: Whether hypernetworks take validation steps.
        hypergradient: Where hypergradients are reported: at the hyperparameters that a segment
            starts with, from which the teacher learns, or at those that it ends with, from which
            clones take one more step.
    """

    sampler: dict[str, Any] = field(default_factory=dict)
    is_plain: bool = False
    has_hypertraining: bool = True
    hypergradient: Literal["start", "end"] | None = None


class Clock:
    """Seconds by part of a segment: of this process's CPU, or with a GPU, of the wall clock."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """The time, once the GPU has finished."""
        if not self._on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what a ``with`` block takes."""
        began = self.now()
        yield
        self.seconds[name] += self.now() - began


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

    def to(self, device: torch.device) -> None:
        """Move what optimises the hyperparameters, which a checkpoint restores to the CPU."""
        if self.training is not None:
            state = self.training.state_dict()
            counters = {name for name in state if name.endswith("step")}  # Adam's stay on the CPU
            self.training.load_state_dict(
                {name: t if name in counters else t.to(device) for name, t in state.items()}
            )

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
        """Of the validation loss on a batch, at the current hyperparameters."""
        assert self.training is not None
        return self.training.hypergradient(self._validation(data))

    def hypergradient_at(self, data: Data, values: dict[str, Any]) -> dict[str, float]:
        """Of the validation loss on a batch, with the frozen weights' response to ``values``."""
        transforms = self.conditioning.transforms
        moved = [transforms[name].unconstrain(values[name]) for name in transforms]
        point = self.conditioning.centre.new_tensor(moved).requires_grad_()
        batch = self._validation(data)
        self.model.eval()
        with self.conditioning.at(point):
            outer = torch.autograd.grad(self.job.loss(self.model, batch), point)[0]
        self.model.train()
        inner = torch.autograd.grad(self.conditioning.natural(point).sum(), point)[0]
        return dict(zip(transforms, (outer / inner).tolist(), strict=True))

    def _validation(self, data: Data) -> Batch:
        """For one hypergradient, which has less noise than those of validation steps."""
        return draw(data.validation, LARGER * self.job.batch_size)


class Objective:
    """One segment of a member."""

    def __init__(
        self,
        job: Job,
        method: Method,
        data: Data,
        store: FileSystemArtifactStore,
        device: torch.device,
    ) -> None:
        self.job, self.method, self.data = job, method, data
        self.store, self.device = store, device
        self._ended = Clock(device).now()

    def __call__(self, trial: optuna.Trial) -> float:
        clock = Clock(self.device)
        # Since the segment before: the sampler's decision, and what the storage took.
        clock.seconds["sampler"] = clock.now() - self._ended
        member = members.begin(trial, self.store)
        student = Student(self.job, self.method.is_plain, trial_seed(trial), self.device)
        with clock.part("checkpoints"):
            member.restore(**student.parts)
            student.to(self.device)
        if self.method.hypergradient == "start":
            with clock.part("teacher"):
                member.teach(partial(student.hypergradient_at, self.data), steps=TEACHING_STEPS)
        values = {n: trial.suggest_float(n, *bounds) for n, bounds in self.job.ranges.items()}
        student.conditioning.set_values(values)
        self._train(trial, student, member.generation, clock)
        if self.method.sampler.get("refine", True):
            member.refined(student.conditioning.values)
        with clock.part("checkpoints"):
            member.save(**student.parts)
        loss = self._measure(trial, student.model, clock)
        trial.set_user_attr(SECONDS, dict(clock.seconds))
        self._ended = clock.now()
        return loss

    def _train(self, trial: optuna.Trial, student: Student, generation: int, clock: Clock) -> None:
        """Train, and report a hypergradient before or after where the method uses it."""
        for moment in ("start", "end"):
            if moment == "end":
                with clock.part("students"):
                    student.train(self.data, *self._steps(generation))
            if self.method.hypergradient == moment:
                with clock.part("teacher"):
                    report_hypergradient(trial, student.hypergradient(self.data))

    def _steps(self, generation: int) -> tuple[int, bool]:
        """The steps of a segment, of equal cost for all methods, and whether some validate."""
        job = self.job
        if self.method.is_plain:
            return round(job.plain * job.steps), False
        if not self.method.has_hypertraining or generation < job.warm_up:
            return round(job.without_validation * job.steps), False
        return job.steps, True

    def _measure(self, trial: optuna.Trial, model: nn.Module, clock: Clock) -> float:
        """Store losses and accuracies; the loss that members are compared by."""
        measured = {}
        for part in ("selection", "validation", "test"):
            # Nothing of the search uses the test part, so its time is no cost of the search.
            with clock.part("test" if part == "test" else "evaluation"):
                loss, accuracy = evaluate(model, getattr(self.data, part))
            measured[part] = {"loss": loss, "accuracy": accuracy}
        trial.set_user_attr(MEASURED, measured)
        return measured["selection"]["loss"]
