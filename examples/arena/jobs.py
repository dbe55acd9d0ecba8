"""The jobs of the arena: their spaces as people write them, their data, where searches start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial, FixedTrial
from training import Data, Training

from optuna_hypergrad import Schedule, suggest_schedule

Rates = Callable[..., Schedule]  # suggest_schedule, or another way to suggest learning rates


@dataclass(frozen=True, eq=False)
class Job:
    """A training to be tuned.

    Args:
        name: Its name.
        suggest: The search space: from a trial, and from what suggests learning rates, to the
            training of that trial.
        data: Reads the data from a folder.
        worst: Validation losses are clipped to this; that of a training that diverged.
        start: Where every search starts, by schedule or parameter; the middle of the others.
        has_schedule: Whether ``lr`` is one schedule that a warm-up and a cosine can replace.
        for_gradients_only: Whether only samplers that take hypergradients run on it.
        is_set_aside: Whether the search was chosen without looking at this job.
        is_for_gpu: Whether it takes minutes on a CPU, and so runs only with a GPU or if named.
        tests_in_eval_mode: Whether batch norm takes its running statistics on test data.
    """

    name: str
    suggest: Callable[[BaseTrial, Rates], Training]
    data: Callable[[Path], Data]
    worst: float = 2 * math.log(10)
    start: Mapping[str, float] = field(default_factory=dict)
    has_schedule: bool = True
    for_gradients_only: bool = False
    is_set_aside: bool = False
    is_for_gpu: bool = False
    tests_in_eval_mode: bool = False

    def bounded(self, loss: float) -> float:
        """The loss, at most the worst one; that of a training that diverged."""
        return min(loss, self.worst) if math.isfinite(loss) else self.worst

    def distributions(self, rates: Rates = suggest_schedule) -> dict[str, BaseDistribution]:
        """The search space."""
        trial = optuna.create_study().ask()
        self.suggest(trial, rates)
        return trial.distributions

    def start_values(self, rates: Rates = suggest_schedule) -> dict[str, float]:
        """The start by trial parameter, floats only: choices are left to the samplers."""
        return {
            name: self._start(name, distribution)
            for name, distribution in self.distributions(rates).items()
            if isinstance(distribution, FloatDistribution)
        }

    def plain_training(self) -> Training:
        """The training at the start, with integers in their middle and the first choices."""
        params: dict[str, Any] = {}
        for name, distribution in self.distributions().items():
            if isinstance(distribution, CategoricalDistribution):
                params[name] = distribution.choices[0]
            elif isinstance(distribution, IntDistribution):
                params[name] = round(_middle(distribution))
        return self.suggest(FixedTrial({**params, **self.start_values()}), suggest_schedule)

    def _start(self, name: str, distribution: FloatDistribution) -> float:
        schedule, _, part = name.rpartition("_")
        is_part = part.isdigit() or part == "peak"
        of_schedule = self.start.get(schedule) if is_part else None
        value = self.start.get(name, of_schedule)
        if value is None:
            return _middle(distribution)
        return min(max(value, distribution.low), distribution.high)


def _middle(distribution: FloatDistribution | IntDistribution) -> float:
    low, high = distribution.low, distribution.high
    return math.sqrt(low * high) if distribution.log else (low + high) / 2


@cache
def loaded(load: Callable[[Path], Data], root: Path, device: str = "cpu") -> Data:
    """Data on a device, read once."""
    return load(root).to(device)


def cosine_rates(
    trial: BaseTrial, name: str, low: float, high: float, *, log: bool = False, **shape: Any
) -> Schedule:
    """A warm-up from 0 to a peak and a cosine to the end, in place of windows.

    The peak is searched over the range of the windows, or over three decades if that is no
    logarithmic one; the last rate as a share of the peak.
    """
    del shape
    peak = trial.suggest_float(f"{name}_peak", low if log else high / 1000, high, log=True)
    warm_up = trial.suggest_float(f"{name}_warm_up", 0.0, 0.5)
    final = trial.suggest_float(f"{name}_final", 1e-3, 1.0, log=True)

    def at(u: float) -> float:
        if u < warm_up:
            return peak * u / warm_up
        cosine = (1 + math.cos(math.pi * (u - warm_up) / (1 - warm_up))) / 2
        return peak * (final + (1 - final) * cosine)

    return Schedule(name, [at(i / 100) for i in range(101)], "linear")


def sgd_options(trial: BaseTrial, lr: Schedule) -> dict[str, Schedule]:
    """SGD with momentum and weight decay."""
    return {
        "lr": lr,
        "momentum": suggest_schedule(trial, "momentum", 0.0, 0.99),
        "weight_decay": suggest_schedule(trial, "weight_decay", 1e-6, 1e-1, log=True),
    }


def adamw_options(trial: BaseTrial, lr: Schedule) -> dict[str, Schedule]:
    """AdamW with both betas and weight decay."""
    return {
        "lr": lr,
        "beta1": suggest_schedule(trial, "beta1", 0.5, 0.99),
        "beta2": suggest_schedule(trial, "beta2", 0.8, 0.999),
        "weight_decay": suggest_schedule(trial, "weight_decay", 1e-3, 1.0, log=True),
    }
