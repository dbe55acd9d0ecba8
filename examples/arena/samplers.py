"""The samplers of the arena by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jobs import Rates, cosine_rates
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from optuna_hypergrad import GradientSampler, suggest_schedule

warnings.filterwarnings("ignore", category=ExperimentalWarning)
Values = Mapping[str, float]


@dataclass(frozen=True)
class Entry:
    """A sampler of the arena.

    Args:
        make: The sampler, from its seed and the start by parameter.
        rates: How learning rates are suggested.
        is_gradient: Whether it takes hypergradients; then it starts by itself where the others
            have an enqueued trial.
        is_greedy: Whether these are those of one step.
        is_smoothed: Whether it recommends what ``optuna_hypergrad.recommended`` does, not the
            best trial.
        is_pruned: Whether trials report to Optuna's Hyperband and may be pruned.
    """

    make: Callable[[int, Values], BaseSampler]
    rates: Rates = suggest_schedule
    is_gradient: bool = False
    is_greedy: bool = False
    is_smoothed: bool = False
    is_pruned: bool = False

    def pruner(self, steps: int) -> BasePruner:
        """Hyperband with brackets that begin at a ninth of the steps, or none."""
        if not self.is_pruned:
            return NopPruner()
        return HyperbandPruner(max(1, steps // 9), steps, reduction_factor=3)


def _gradient(**options: object) -> Callable[[int, Values], BaseSampler]:
    def make(seed: int, start: Values) -> BaseSampler:
        return GradientSampler(seed=seed, start=start, stop_when_converged=False, **options)

    return make


def _plain(kind: type[BaseSampler], **options: object) -> Callable[[int, Values], BaseSampler]:
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
    "random": Entry(_plain(RandomSampler)),
    "tpe": Entry(_plain(TPESampler)),
    "tpe-multivariate": Entry(_plain(TPESampler, multivariate=True)),
    "cmaes": Entry(_plain(CmaEsSampler, warn_independent_sampling=False)),
    "gp": Entry(_plain(GPSampler)),
    "botorch": Entry(_botorch),
    "hyperband": Entry(_plain(TPESampler), is_pruned=True),
    "tpe-cosine": Entry(_plain(TPESampler), cosine_rates),
    "greedy": Entry(
        _gradient(strategy="sign_descent", safeguard=None), is_gradient=True, is_greedy=True
    ),
    "published": Entry(_gradient(strategy="sign_descent", safeguard=None), is_gradient=True),
    "ours": Entry(_gradient(), is_gradient=True, is_smoothed=True),
}
