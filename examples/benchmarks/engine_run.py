"""Run one job of the engine's benchmark; ``engine.py`` starts this in its own process.

In its own process, a run's memory is not counted as another's. The result is printed as JSON. It
covers the run alone, without the imports, the data and one step of plain training before it. There
is one thread, and times are CPU times, which other work on the machine changes little.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any

import mnist
import naive
import torch
import torch.nn.functional as F
from networks import NETWORKS, random_batches
from torch import nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.recompute import memory as metering

VALUES = {"lr": 0.05, "momentum": 0.5, "weight_decay": 1e-4}
BATCHES = 8  # distinct batches, repeated


@dataclass(frozen=True)
class Job:
    """One run of the benchmark.

    Args:
        network: Key of ``NETWORKS``.
        hypers: Windows of learning rate, momentum and weight decay, ``"7+1+1"``; 0 for a number
            that is not learned.
        steps: Training steps.
        method: Key of ``METHODS``.
        batch: Examples in a batch; validation is on one batch.
        dtype: ``"float32"`` or ``"float64"``.
        memory: Bytes that reverse mode may keep, or None.
    """

    network: str
    hypers: str
    steps: int
    method: str
    batch: int = 128
    dtype: str = "float32"
    memory: int | None = None

    @property
    def values(self) -> dict[str, list[float]]:
        """The values of learning rate, momentum and weight decay in their windows."""
        counts = map(int, self.hypers.split("+"))
        return {k: [v] * max(n, 1) for (k, v), n in zip(VALUES.items(), counts, strict=True)}

    @property
    def learned(self) -> list[str]:
        """Which of the three are learned."""
        counts = map(int, self.hypers.split("+"))
        return [kind for kind, count in zip(VALUES, counts, strict=True) if count]


@dataclass(frozen=True)
class Task:
    """The arguments of every method."""

    job: Job
    model: nn.Module
    batches: list[mnist.Batch]
    validation: mnist.Batch

    def batch(self, step: int) -> mnist.Batch:
        return self.batches[step % len(self.batches)]


def plain(task: Task) -> dict[str, Any]:
    """Training as torch does it."""
    optimizer = torch.optim.SGD(task.model.parameters(), **VALUES)
    for step in range(task.job.steps):
        optimizer.zero_grad()
        mnist.loss_fn(task.model, task.batch(step)).backward()
        optimizer.step()
    return {}


def baseline(task: Task) -> dict[str, Any]:
    """The published method."""
    gradient = naive.hypergradient(
        task.model,
        F.cross_entropy,
        *task.job.values.values(),
        batches=task.batch,
        validation=[task.validation],
        steps=task.job.steps,
        learn=task.job.learned,
    )
    return {"gradient": gradient}


def engine(task: Task) -> dict[str, Any]:
    """The engine in the mode of this name."""
    schedules = {kind: Schedule(kind, values) for kind, values in task.job.values.items()}
    update = SGD(**{k: s if k in task.job.learned else VALUES[k] for k, s in schedules.items()})
    result = hypergradient(
        task.model,
        mnist.loss_fn,
        update,
        task.batch,
        task.validation,
        steps=task.job.steps,
        mode=task.job.method,
        estimate="exact",
        memory=task.job.memory,
    )
    return {
        "gradient": result.gradient,
        "mode": result.mode,
        "replayed": result.recomputed,
        "kept_bytes": result.kept_bytes,
        "cost": asdict(result.cost),
    }


METHODS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "plain": plain,
    "baseline": baseline,
    "forward": engine,
    "reverse": engine,
    "auto": engine,
}


def prepared(job: Job) -> Task:
    """The model and the data, after a warm-up step with a copy."""
    network, dtype = NETWORKS[job.network], getattr(torch, job.dtype)
    model = network.make(0).to(dtype)
    *batches, validation = random_batches(network, BATCHES + 1, job.batch, dtype)
    plain(Task(replace(job, steps=1), deepcopy(model), batches, validation))
    return Task(job, model, batches, validation)


def measured(job: Job) -> dict[str, Any]:
    """The job, its cost, and its result.

    ``seconds`` are CPU time, ``bytes`` the peak of memory beyond that at the start of the run.
    """
    task = prepared(job)
    with metering.resetting(), metering.metered(torch.device("cpu")) as cost:
        found = METHODS[job.method](task)
    return {**asdict(job), **asdict(cost), **found}


if __name__ == "__main__":
    torch.set_num_threads(1)
    metering.time = SimpleNamespace(perf_counter=time.process_time)
    print(json.dumps(measured(Job(**json.loads(sys.argv[1])))))
