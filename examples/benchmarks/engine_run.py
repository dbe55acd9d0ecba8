"""Run one job of the engine's benchmark; ``engine.py`` starts this in its own process.

In its own process, a run's memory is not counted as another's. The result is printed as JSON. It
covers the run alone, without the imports, the data and one step of plain training before it. There
is one thread. On the CPU, times are CPU times, which other work on the machine changes little.
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
import peers
import torch
import torch.nn.functional as F
from networks import NETWORKS, random_batches
from torch import nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, AdamW, hypergradient
from optuna_hypergrad.autodiff.recompute import memory as metering
from optuna_hypergrad.autodiff.result import Cost

VALUES = {
    "sgd": {"lr": 0.05, "momentum": 0.5, "weight_decay": 1e-4},
    "adamw": {"lr": 1e-3, "beta1": 0.9, "weight_decay": 0.01},
}
UPDATES = {"sgd": SGD, "adamw": AdamW}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
BATCHES = 8  # distinct batches, repeated


@dataclass(frozen=True)
class Job:
    """One run of the benchmark.

    Args:
        network: Key of ``NETWORKS``.
        hypers: Windows of learning rate, momentum (or β₁) and weight decay, ``"7+1+1"``; 0 for a
            number that is not learned.
        steps: Training steps.
        method: Key of ``METHODS``.
        batch: Examples in a batch; validation is on one batch.
        dtype: ``"float32"`` or ``"float64"``.
        memory: Bytes that reverse mode may keep, or None.
        optimizer: ``"sgd"`` or ``"adamw"``.
        trial: 2 if the same was run before in this process, as in the second trial of a study.
        turns: How many times the job is run between two plain trainings afterwards, for a ratio of
            times that changes of the machine's speed from process to process do not enter.
        device: ``"cpu"``, where times are CPU times, or another of torch's, where they are not.
    """

    network: str
    hypers: str
    steps: int
    method: str
    batch: int = 128
    dtype: str = "float32"
    memory: int | None = None
    optimizer: str = "sgd"
    trial: int = 1
    turns: int = 0
    device: str = "cpu"

    @property
    def numbers(self) -> dict[str, float]:
        """The values of the hyperparameters."""
        return VALUES[self.optimizer]

    @property
    def values(self) -> dict[str, list[float]]:
        """The same in their windows."""
        counts = map(int, self.hypers.split("+"))
        return {k: [v] * max(n, 1) for (k, v), n in zip(self.numbers.items(), counts, strict=True)}

    @property
    def learned(self) -> list[str]:
        """Which of them are learned."""
        counts = map(int, self.hypers.split("+"))
        return [kind for kind, count in zip(self.numbers, counts, strict=True) if count]

    def arguments(self, hypers: dict[str, Any]) -> dict[str, Any]:
        """Those of the update and of torch's optimizer, with these hyperparameters."""
        others = {name: value for name, value in hypers.items() if name != "beta1"}
        return others | ({"betas": (hypers["beta1"], 0.999)} if "beta1" in hypers else {})

    def update(self, hypers: dict[str, Any]) -> SGD | AdamW:
        """The engine's update with these hyperparameters."""
        return UPDATES[self.optimizer](**self.arguments(hypers))


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
    job = task.job
    make = OPTIMIZERS[job.optimizer]
    optimizer = make(task.model.parameters(), **job.arguments(job.numbers))
    for step in range(job.steps):
        optimizer.zero_grad()
        mnist.loss_fn(task.model, task.batch(step)).backward()
        optimizer.step()
    return {}


def baseline(task: Task) -> dict[str, Any]:
    """The published method."""
    if task.job.optimizer != "sgd":
        raise ValueError("baseline: the published method is one of SGD, so use --optimizer sgd.")
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
    """The engine in the mode of this name; "compiled" is reverse mode; "train" learns nothing."""
    job = task.job
    schedules = {kind: Schedule(kind, values) for kind, values in job.values.items()}
    update = job.update(
        {k: s if k in job.learned else job.numbers[k] for k, s in schedules.items()}
    )
    trains, compiles = job.method == "train", job.method == "compiled"
    mode = {"train": "auto", "compiled": "reverse"}.get(job.method, job.method)
    result = hypergradient(
        task.model,
        mnist.loss_fn,
        update,
        task.batch,
        task.validation,
        steps=job.steps,
        mode=mode,
        learn=() if trains else None,
        compiled=compiles,
        estimate="exact",
        memory=job.memory,
    )
    return {
        "gradient": result.gradient,
        "mode": result.mode,
        "replayed": result.recomputed,
        "kept_bytes": result.kept_bytes,
        "cost": asdict(result.cost),
    }


def peer(task: Task) -> dict[str, Any]:
    """Reverse mode without the engine, of this name."""
    job = task.job
    update = job.update(job.numbers)
    kind_of = {"dtype": getattr(torch, job.dtype), "device": job.device}
    leaves = {
        kind: torch.tensor(job.values[kind], requires_grad=True, **kind_of) for kind in job.learned
    }

    def values(step: int) -> dict[str, Any]:
        at = {kind: leaf[len(leaf) * step // job.steps] for kind, leaf in leaves.items()}
        return {**update.hypers, **at}

    method = peers.unrolled if job.method == "unrolled" else peers.by_hand
    found = method(
        peers.Run(task.model, update, values, leaves, task.batch, task.validation, job.steps)
    )
    schedules = {kind: Schedule(kind, job.values[kind]) for kind in leaves}
    gradient = {
        name: value
        for kind, schedule in schedules.items()
        for name, value in zip(schedule.names, found[kind].tolist(), strict=True)
    }
    return {"gradient": gradient}


METHODS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "plain": plain,
    "baseline": baseline,
    "forward": engine,
    "reverse": engine,
    "auto": engine,
    "compiled": engine,
    "train": engine,
    "unrolled": peer,
    "by-hand": peer,
}


def prepared(job: Job) -> Task:
    """The model and the data, after a warm-up step with a copy."""
    network, dtype = NETWORKS[job.network], getattr(torch, job.dtype)
    model = network.make(0).to(job.device, dtype)
    *batches, validation = random_batches(network, BATCHES + 1, job.batch, dtype, job.device)
    plain(Task(replace(job, steps=1), deepcopy(model), batches, validation))
    return Task(job, model, batches, validation)


def measured(job: Job) -> dict[str, Any]:
    """The job, its cost, and its result.

    ``bytes`` are the peak of memory beyond that at the start of the run.
    ``ratios`` are those of the turns.
    """
    for _ in range(job.trial):
        task = prepared(job)
        found, cost = metered(task)
    ratios = [ratio(job) for _ in range(job.turns)]
    return {**asdict(job), **asdict(cost), **found, "ratios": ratios}


def ratio(job: Job) -> float:
    """The time of the job relative to the mean of a plain training before and one after it."""
    plain_job = replace(job, method="plain")
    turn = (plain_job, job, plain_job)
    before, own, after = (metered(prepared(one))[1].seconds for one in turn)
    return 2 * own / (before + after)


def metered(task: Task) -> tuple[dict[str, Any], Cost]:
    """The result of the task's method, and its cost."""
    with metering.resetting(), metering.metered(torch.device(task.job.device)) as cost:
        found = METHODS[task.job.method](task)
    return found, cost


if __name__ == "__main__":
    torch.set_num_threads(1)
    job = Job(**json.loads(sys.argv[1]))
    if job.device == "cpu":
        metering.time = SimpleNamespace(perf_counter=time.process_time)
    print(json.dumps(measured(job)))
