"""The methods of the long-horizons experiments, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import optuna
from greedy import OneStep, train_greedily
from long_horizons_jobs import RANGES, WINDOWS
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from training import AfterStep, Data, Trained, Training, evaluate, train_with_hypergradients

from samplers import SAMPLERS, Entry, gradient, plain

Params = dict[str, float]
STEP_SIZES = {"lr": 0.1, "momentum": 0.15, "weight_decay": 4e-4}  # Appendix B
CLIP = 10.0  # on entries of Hessian products, Appendix B
ONLINE_RATE, ONLINE_CLIP = 0.2, 1.0  # of online updates, Appendix B
HELD_OUT = 128  # validation examples of a greedy hypergradient
RATES = (0.05, 0.1, 0.2, 0.4, 0.6)  # the first learning rates of the grids of Appendix D


class Method(NamedTuple):
    """How a method searches, and in how many windows of the learning rate; None: one a step."""

    entry: Entry
    windows: int | None = WINDOWS


def train_online(
    training: Training, data: Data, seed: int, *, after_step: AfterStep | None = None
) -> Trained:
    """Train with constants that one-step hypergradients change at every step (Baydin et al.).

    They stay in the ranges of the search.
    """
    one_step = OneStep(training, data, seed, HELD_OUT)
    values = {name: schedule.values[0] for name, schedule in one_step.schedules.items()}
    for step in range(training.steps):
        for name, slope in one_step.step(step, values).items():
            if math.isnan(slope):  # the training has diverged
                continue
            change = ONLINE_RATE * min(max(slope, -ONLINE_CLIP), ONLINE_CLIP)
            low, high = RANGES[name]
            values[name] = min(max(values[name] - change, low), high)
        if after_step is not None:
            after_step(step + 1, one_step.model)
    return Trained(one_step.model, evaluate(training, one_step.model, data.validation)[0])


class ListedSampler(BaseSampler):
    """Runs configurations in a shuffled order, again and again."""

    def __init__(self, configurations: Sequence[Params], seed: int) -> None:
        self._configurations = configurations
        self._order = np.random.default_rng(seed).permutation(len(configurations))

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: parameters are sampled one by one."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> float:
        """The parameter in the trial's configuration."""
        index = self._order[trial.number % len(self._order)]
        return self._configurations[index][param_name]


def multi_step_grid() -> list[Params]:
    """The 135 hand-tuned configurations for CIFAR-10: rates that fall at 30, 60 and 80 %."""
    grid = product(RATES, (0.1, 0.2, 0.4), (0.45, 0.9, 0.99), (2.5e-4, 5e-4, 1e-3))
    return [
        {
            **in_windows([rate * decay ** sum(u >= at for at in (0.3, 0.6, 0.8)) for u in MIDDLES]),
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        for rate, decay, momentum, weight_decay in grid
    ]


def cosine_grid() -> list[Params]:
    """The five for MNIST and SVHN: cosine annealing without momentum or weight decay."""
    return [
        {
            **in_windows([rate * (1 + math.cos(math.pi * u)) / 2 for u in MIDDLES]),
            "momentum": 0.0,
            "weight_decay": 0.0,
        }
        for rate in RATES
    ]


MIDDLES = [(i + 0.5) / WINDOWS for i in range(WINDOWS)]  # of windows, as fractions of the training


def in_windows(rates: Sequence[float]) -> Params:
    """Learning rates by trial parameter."""
    return {f"lr_{i}": rate for i, rate in enumerate(rates)}


def hand_tuned(job: str) -> Entry:
    """The paper's grid for a job, without a start of its own."""
    grid = multi_step_grid() if job.startswith("cifar") else cosine_grid()

    def make(seed: int, start: Mapping[str, float]) -> BaseSampler:
        del start
        return ListedSampler(grid, seed)

    return Entry(make, has_start=True)


def _signs(learn: Any) -> Entry:
    """The paper's outer optimizer, with hypergradients of some kind."""
    make = gradient(strategy="sign_descent", safeguard=None, step_size=STEP_SIZES)
    return Entry(make, is_gradient=True, learn=learn, has_start=True)


_exact = partial(train_with_hypergradients, estimate="exact")
METHODS = {
    "published": Method(_signs(partial(_exact, mode="forward", clip_products=CLIP))),
    "published-reverse": Method(_signs(partial(_exact, mode="reverse", clip_products=CLIP))),
    "published-unclipped": Method(_signs(_exact)),
    "ours": Method(SAMPLERS["ours"]),
    "random": Method(SAMPLERS["random"]),
    "tpe": Method(SAMPLERS["tpe"]),
    "cmaes": Method(SAMPLERS["cmaes"]),
    "gp": Method(SAMPLERS["gp"]),
    "hyperband": Method(SAMPLERS["hyperband"]),
    "greedy-online": Method(Entry(plain(RandomSampler), train=train_online), windows=1),
    "horizon-1": Method(_signs(partial(train_greedily, size=HELD_OUT))),
    "unshared": Method(_signs(_exact), windows=None),
}
NAMES = ("published", "hand-tuned", *(name for name in METHODS if name != "published"))


def method_of(name: str, job: str) -> Method:
    """The method of a name, for a job."""
    return Method(hand_tuned(job)) if name == "hand-tuned" else METHODS[name]
