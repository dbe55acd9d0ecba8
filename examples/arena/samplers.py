"""The samplers of the arena by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from greedy import train_greedily
from jobs import Rates, cosine_rates
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from training import Trained, train, train_with_hypergradients

from optuna_hypergrad import GradientSampler, suggest_schedule

warnings.filterwarnings("ignore", category=ExperimentalWarning)
Values = Mapping[str, float]
Train = Callable[..., Trained]  # of a training, its data and a seed


@dataclass(frozen=True)
class Entry:
    """A sampler of the arena.

    Args:
        make: The sampler, from its seed and the start by parameter.
        rates: How learning rates are suggested.
        is_gradient: Whether it takes hypergradients.
        learn: How it trains where it takes hypergradients.
        train: How it trains else, and how its advice is judged; called with ``after_step``, too,
            if ``is_pruned``.
        has_start: Whether it starts by itself; the others have an enqueued trial.
        is_smoothed: Whether it recommends what ``optuna_hypergrad.recommended`` does, not the
            best trial.
        is_pruned: Whether trials report to Optuna's Hyperband and may be pruned.
    """

    make: Callable[[int, Values], BaseSampler]
    rates: Rates = suggest_schedule
    is_gradient: bool = False
    learn: Train = train_with_hypergradients
    train: Train = train
    has_start: bool = False
    is_smoothed: bool = False
    is_pruned: bool = False

    def pruner(self, steps: int) -> BasePruner:
        """Hyperband with brackets that begin at a ninth of the steps, or none."""
        if not self.is_pruned:
            return NopPruner()
        return HyperbandPruner(max(1, steps // 9), steps, reduction_factor=3)


def gradient(**options: object) -> Callable[[int, Values], BaseSampler]:
    """What makes a ``GradientSampler`` that goes on once it has converged."""

    def make(seed: int, start: Values) -> BaseSampler:
        return GradientSampler(seed=seed, start=start, stop_when_converged=False, **options)

    return make


def plain(kind: type[BaseSampler], **options: object) -> Callable[[int, Values], BaseSampler]:
    """What makes one of Optuna's samplers."""

    def make(seed: int, start: Values) -> BaseSampler:
        del start  # the arena enqueues it
        return kind(seed=seed, **options)

    return make


def _botorch(seed: int, start: Values) -> BaseSampler:
    del start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.script, which it imports
        from optuna_integration import BoTorchSampler
    sampler: BaseSampler = BoTorchSampler(seed=seed)
    return sampler


OPTIONAL = ("botorch",)  # needs botorch and optuna-integration; runs only if it is named
SAMPLERS = {
    "random": Entry(plain(RandomSampler)),
    "tpe": Entry(plain(TPESampler)),
    "tpe-multivariate": Entry(plain(TPESampler, multivariate=True)),
    "cmaes": Entry(plain(CmaEsSampler, warn_independent_sampling=False)),
    "gp": Entry(plain(GPSampler)),
    "botorch": Entry(_botorch),
    "hyperband": Entry(plain(TPESampler), is_pruned=True),
    "tpe-cosine": Entry(plain(TPESampler), cosine_rates),
    "greedy": Entry(
        gradient(strategy="sign_descent", safeguard=None),
        is_gradient=True,
        learn=train_greedily,
        has_start=True,
    ),
    "published": Entry(
        gradient(strategy="sign_descent", safeguard=None), is_gradient=True, has_start=True
    ),
    "ours": Entry(gradient(), is_gradient=True, has_start=True, is_smoothed=True),
}
