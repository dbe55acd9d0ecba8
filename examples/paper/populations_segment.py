"""One segment of a member: what it trains, what it reports, and what each part costs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore
from populations_jobs import Data, Job, evaluate
from populations_student import TEACHING_STEPS, Student
from populations_teacher import mutate
from torch import nn

from optuna_hypergrad import members, report_hypergradient, trial_seed

SECONDS, MEASURED, MUTATED = "seconds", "measured", "mutated"  # attributes of trials


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
        is_retrained: Whether the objective mutates clones itself, by a teacher of their own.
    """

    sampler: dict[str, Any] = field(default_factory=dict)
    is_plain: bool = False
    has_hypertraining: bool = True
    hypergradient: Literal["start", "end"] | None = None
    is_retrained: bool = False


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
        if self.method.hypergradient == "start":
            with clock.part("teacher"):
                member.teach(partial(student.hypergradient_at, self.data), steps=TEACHING_STEPS)
        values = {n: trial.suggest_float(n, *bounds) for n, bounds in self.job.ranges.items()}
        student.conditioning.set_values(values)
        if self.method.is_retrained and member.is_clone:
            with clock.part("teacher"):
                trial.set_user_attr(MUTATED, mutate(student, self.data))
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
